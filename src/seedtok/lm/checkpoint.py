"""The files of a SEED language model: config.json, which names its base and image tokenizer; LoRA; the visual layers.

Those of a plain language model are in `plain_files`.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seedtok.core.checkpoint import read_config, write_checkpoint
from seedtok.core.errors import CheckpointError
from seedtok.core.files import (
    assign_strictly,
    built_for,
    check_finite,
    check_tensors,
    read_json,
    read_tensors,
    write_tensors,
)
from seedtok.core.hub import locate, named_part, recorded, resolve
from seedtok.core.kinds import LM
from seedtok.core.records import from_record
from seedtok.lm.adapter import AdapterConfig, VisualAdapter, merged_copy, renamed
from seedtok.lm.base import Weights, fingerprint, is_base_of, load_base, loading_errors, output_head, word_embedding
from seedtok.lm.model import JointLM
from seedtok.lm.native import IMAGE_TOKENIZER, Template, template_of
from seedtok.lm.native import PLAIN as PLAIN_TEMPLATE
from seedtok.lm.plain_files import ENTRY, read_native, read_plain, warn_of_another_encoder, write_image_tokenizer
from seedtok.tokenizer.seed import SeedTokenizer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

VERSION = 1
VISUAL, ADAPTER = "visual.safetensors", "adapter_model.safetensors"


@dataclass(frozen=True)
class Parts:
    """How base and image tokenizer of a SEED language model are stored.

    `merged` writes the base with LoRA added to its weights; `standalone` copies parts that are folders of this machine.
    `base` and `tokenizer` are hub ids to name in place of the model's own.
    """

    merged: bool = False
    standalone: bool = False
    base: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class Source:
    """The base that a model is built on: its source, as `hub.locate` returns it, and its fingerprint."""

    base: str = ""
    fingerprint: dict[str, Any] | None = None


@dataclass(frozen=True)
class Given:
    """What a user names: a SEED language model, and what to take in place of the parts that it names itself."""

    name: str | Path
    base: str | Path | None = None
    seed: SeedTokenizer | str | Path | None = None
    template: Template | None = None


def read(
    given: Given, weights: Weights, trainable: bool
) -> tuple[JointLM, SeedTokenizer, Source, Template]:  # fmt: skip
    """Loads a SEED language model of any form: an adapter on a base, a plain one, that of `lm.auto`, SEED-LLaMA.

    Raises CheckpointError for a broken folder, an adapter made for another base, or another codebook. Warns of an image
    tokenizer with another encoder, unless the model is to learn its codes.
    """
    folder = resolve(given.name, "lm")
    record = read_json(folder / "config.json")
    if isinstance(entry := record.get(ENTRY), dict):
        seed = _load_seed(entry, folder, given.seed, weights.dtype)
        joint, source = read_plain(folder, entry, seed, weights)
        warn_of_another_encoder(entry, seed, folder)
        return joint, seed, Source(source), given.template or Template.of_entry(entry)
    if "architectures" in record and "format" not in record:
        if given.seed is None:
            raise CheckpointError(
                f"{given.name} names no image tokenizer: give one; SEED-LLaMA's is {IMAGE_TOKENIZER}, which "
                "`seedtok convert` turns into a folder"
            )
        seed = _load_seed({}, folder, given.seed, weights.dtype)
        joint, source = read_native(folder, seed, weights)
        template = given.template or template_of(str(given.name), joint.lm.config, joint.names)
        return joint, seed, Source(source), template
    config = read_config(folder, LM, VERSION)
    base = locate(given.base, "opt") if given.base else locate(named_part(config, "base", folder), "opt", folder)
    seed = _load_seed({"tokenizer": "mini"} | config, folder, given.seed, weights.dtype)
    joint, source = read_adapted(folder, config, base, seed, weights, trainable)
    if not trainable:
        warn_of_another_encoder(config, seed, folder)
    return joint, seed, source, given.template or Template.of_entry(config)


def _load_seed(
    config: dict[str, Any], folder: Path, given: SeedTokenizer | str | Path | None, dtype: torch.dtype
) -> SeedTokenizer:
    """The image tokenizer that is given, or else the one that the configuration of a folder names."""
    if isinstance(given, SeedTokenizer):
        return given
    named = given or locate(named_part(config, "tokenizer", folder), "tokenizer", folder)
    return SeedTokenizer.from_pretrained(named, dtype=dtype)


def write_files(
    model: JointLM, seed: SeedTokenizer, source: Source, new: Path, folder: Path, parts: Parts,
    template: Template = PLAIN_TEMPLATE,
) -> None:  # fmt: skip
    """Writes a SEED language model with an adapter into the existing folder `new`, which will be moved to `folder`."""
    from peft import PeftModel

    assert model.adapter is not None
    lora = model.network if isinstance(model.network, PeftModel) and not parts.merged else None
    if parts.merged:
        merged_copy(model.network).save_pretrained(new / "base")
        model.text_tokenizer.save_pretrained(str(new / "base"))
        base = "base"
    else:
        base = recorded(parts.base or source.base, "opt", folder, new, parts.standalone)
    if lora is not None:
        write_lora(lora, new / "adapter")
    config = {
        "base": base, "base_fingerprint": source.fingerprint or fingerprint(model.lm), "adapter": lora is not None,
        "vocabulary": asdict(model.adapter.config),
    }  # fmt: skip
    config |= write_image_tokenizer(seed, new, folder, parts.standalone, parts.tokenizer)
    config |= template.entry()
    write_checkpoint(new, LM, VERSION, config, model.adapter.tensors(), VISUAL)


def read_adapted(
    folder: Path, config: dict[str, Any], base: str, seed: SeedTokenizer, weights: Weights, trainable: bool
) -> tuple[JointLM, Source]:  # fmt: skip
    """Loads what `write_files` wrote into a folder, over a base that `hub.locate` found; `config` is its config.json.

    LoRA and the visual layers have gradients if `trainable`; else LoRA is added to the weights. Raises CheckpointError
    for a broken folder, an adapter made for another base, or another codebook.
    """
    lm, text_tokenizer = load_base(base, weights.dtype, weights.quantization)
    if not is_base_of(config, lm):
        raise CheckpointError(f"{folder} was made for another base than {base}: pass the one it was trained on")
    source = Source(base, config.get("base_fingerprint") or fingerprint(lm))
    adapter = _read_adapter(folder, config, lm, seed)
    network: PreTrainedModel | PeftModel = lm
    if config.get("adapter", config["base"] != "base"):
        network = read_lora(lm, folder / "adapter", trainable)
        if not trainable and weights.quantization is None:
            network.merge_adapter()  # twice as fast; peft holds on to LoRA's own weights, so that they can be saved
    adapter.to(weights.dtype).requires_grad_(trainable)
    return JointLM(network, text_tokenizer, adapter.config.vocabulary, adapter), source


# ------------------------------------------------------------ visual layers


def _read_adapter(folder: Path, config: dict[str, Any], lm: PreTrainedModel, seed: SeedTokenizer) -> VisualAdapter:
    """The visual layers of a folder; raises CheckpointError where they are not for this LM and this codebook."""
    record = config.get("vocabulary")
    if isinstance(record, dict):
        record = {"head_bias": True} | record  # older checkpoints lack the field
    sizes = from_record(AdapterConfig, record, f"the vocabulary in {folder / 'config.json'}")
    if sizes.codes != len(seed.codebook.weight) or sizes.code_dim != seed.codebook.weight.shape[1]:
        raise CheckpointError(f"{folder} was made for another codebook than this image tokenizer's")
    if sizes != adapter_config(lm, seed, head_bias=sizes.head_bias):
        raise CheckpointError(f"{folder / 'config.json'}: the sizes of its vocabulary are not those of its base")
    with built_for(config["vocabulary"], folder / VISUAL):
        adapter = VisualAdapter(sizes)
    assign_strictly(adapter, renamed(read_tensors(folder / VISUAL)), str(folder), {"": torch.float32})
    if not _is_same_codebook(adapter.codebook, seed.codebook.weight):
        raise CheckpointError(f"{folder} was made for another codebook than this image tokenizer's")
    return adapter


def adapter_config(lm: PreTrainedModel, seed: SeedTokenizer, head_bias: bool = False) -> AdapterConfig:
    """The sizes of visual layers for an LM and an image tokenizer."""
    embedding, head = word_embedding(lm).weight, output_head(lm).weight
    size, dim = seed.codebook.weight.shape
    span = seed.config.embedder.qformer.queries
    return AdapterConfig(embedding.shape[0], embedding.shape[1], head.shape[1], size, dim, span, head_bias)


def _is_same_codebook(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float().to(one.device), rtol=0.01, atol=1e-4)


# ------------------------------------------------------------ LoRA


def write_lora(network: PeftModel, folder: Path) -> None:
    """Writes LoRA's weights and configuration, without the place of its base, which config.json names."""
    from peft import get_peft_model_state_dict

    folder.mkdir()
    config = copy.copy(network.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = None, True
    config.save_pretrained(str(folder))
    write_tensors(folder / ADAPTER, get_peft_model_state_dict(network, save_embedding_layers=False))


def read_lora(lm: PreTrainedModel, folder: Path, trainable: bool) -> PeftModel:
    """A base with the LoRA of a folder; raises CheckpointError for one that is missing, broken or of another LM."""
    from peft import PeftModel, get_peft_model_state_dict

    tensors = read_tensors(folder / ADAPTER)
    check_finite(tensors, str(folder))
    if (kind := read_json(folder / "adapter_config.json").get("peft_type")) != "LORA":
        raise CheckpointError(f"{folder} is an adapter of type {kind!r}; expected LORA")
    try:
        network = PeftModel.from_pretrained(lm, str(folder), is_trainable=trainable, low_cpu_mem_usage=True)
    except loading_errors() as error:
        raise CheckpointError(f"{folder}: {next(iter(str(error).splitlines()), type(error).__name__)}") from None
    check_tensors(get_peft_model_state_dict(network, save_embedding_layers=False), tensors, str(folder))
    return network
