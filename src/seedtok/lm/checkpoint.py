"""The files of a SEED language model: what it names, its adapter and its visual layers."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from seedtok.core.errors import CheckpointError
from seedtok.core.files import assign_strictly, built_for, check_finite, check_tensors, read_json, read_tensors
from seedtok.core.hub import recorded
from seedtok.lm.base import fingerprint, head, loading_errors, words
from seedtok.lm.vocabulary import Vocabulary, VocabularyConfig
from seedtok.tokenizer.seed import SeedTokenizer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from seedtok.lm.seed_lm import SeedLM

VERSION = 1
ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True)
class Parts:
    """What becomes of base and image tokenizer when a SEED LM is written.

    `merged` writes the base with LoRA in its weights; `standalone` copies what is in folders of this machine. `base`
    and `tokenizer` are hub ids to name in place of the model's own.
    """

    merged: bool = False
    standalone: bool = False
    base: str | None = None
    tokenizer: str | None = None


def write_files(model: SeedLM, new: Path, folder: Path, parts: Parts) -> None:
    """Writes a SEED LM into the existing folder `new`, which will be moved to `folder`."""
    from peft import PeftModel

    identity = model.fingerprint or fingerprint(model.lm)
    adapter = model.adapter if isinstance(model.adapter, PeftModel) and not parts.merged else None
    if parts.merged:
        lm = model.adapter.merge_and_unload() if isinstance(model.adapter, PeftModel) else model.adapter
        lm.save_pretrained(new / "base")
        model.text_tokenizer.save_pretrained(str(new / "base"))
        base = "base"
    else:
        base = recorded(parts.base or model.base, "opt", folder, new, parts.standalone)
    if adapter is not None:
        save_adapter(adapter, new / "adapter")
    tokenizer = parts.tokenizer or model.seed.source
    if tokenizer is None or (parts.standalone and os.path.isabs(tokenizer)):
        (new / "tokenizer").mkdir()
        model.seed.write_files(new / "tokenizer", folder / "tokenizer", parts.standalone)
        tokenizer = "tokenizer"
    else:
        tokenizer = recorded(tokenizer, "tokenizer", folder, new)
    record = {
        "format": "seedtok.lm", "version": VERSION, "base": base, "base_fingerprint": identity,
        "adapter": adapter is not None, "tokenizer": tokenizer, "vocabulary": asdict(model.vocabulary.config),
    }  # fmt: skip
    (new / "config.json").write_text(json.dumps(record, indent=1))
    save_file(model.vocabulary.saved(), new / "visual.safetensors")


# ------------------------------------------------------------ visual layers


def load_vocabulary(folder: Path, record: dict[str, Any], lm: PreTrainedModel, seed: SeedTokenizer) -> Vocabulary:
    """The visual layers of a folder; raises CheckpointError where they are not for this LM and this codebook."""
    try:
        sizes = VocabularyConfig(**record["vocabulary"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} has no sizes of a vocabulary: {error}") from None
    if sizes.codes != len(seed.codebook.weight) or sizes.code_dim != seed.codebook.weight.shape[1]:
        raise CheckpointError(f"{folder} was made for another codebook than this image tokenizer's")
    if sizes != vocabulary_config(lm, seed):
        raise CheckpointError(f"{folder / 'config.json'}: the sizes of its vocabulary are not those of its base")
    with built_for(record["vocabulary"], folder / "visual.safetensors"):
        vocabulary = Vocabulary(sizes)
    assign_strictly(vocabulary, read_tensors(folder / "visual.safetensors"), str(folder), {"": torch.float32})
    if not _same_codebook(vocabulary.codebook, seed.codebook.weight):
        raise CheckpointError(f"{folder} was made for another codebook than this image tokenizer's")
    return vocabulary


def vocabulary_config(lm: PreTrainedModel, seed: SeedTokenizer) -> VocabularyConfig:
    read, write = words(lm).weight, head(lm).weight
    size, dim = seed.codebook.weight.shape
    span = seed.config.embedder.qformer.queries
    return VocabularyConfig(read.shape[0], read.shape[1], write.shape[1], size, dim, span)


def _same_codebook(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float().to(one.device), rtol=0.01, atol=1e-4)


# ------------------------------------------------------------ LoRA


def save_adapter(adapter: PeftModel, folder: Path) -> None:
    """Writes LoRA's weights and configuration, without the place of its base: that is the SEED LM's to say."""
    from peft import get_peft_model_state_dict

    folder.mkdir()
    config = copy.copy(adapter.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = None, True
    config.save_pretrained(str(folder))
    tensors = get_peft_model_state_dict(adapter, save_embedding_layers=False)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ADAPTER)


def load_adapter(lm: PreTrainedModel, folder: Path, trainable: bool) -> PeftModel:
    """A base with the LoRA of a folder; raises CheckpointError for one that is missing, broken or of another LM."""
    from peft import PeftModel, get_peft_model_state_dict

    tensors = read_tensors(folder / ADAPTER)
    check_finite(tensors, str(folder))
    if (kind := read_json(folder / "adapter_config.json").get("peft_type")) != "LORA":
        raise CheckpointError(f"{folder} is an adapter of type {kind!r}; expected LORA")
    try:
        adapter = PeftModel.from_pretrained(lm, str(folder), is_trainable=trainable, low_cpu_mem_usage=True)
    except loading_errors() as error:
        raise CheckpointError(f"{folder}: {next(iter(str(error).splitlines()), type(error).__name__)}") from None
    check_tensors(get_peft_model_state_dict(adapter, save_embedding_layers=False), tensors, str(folder))
    return adapter
