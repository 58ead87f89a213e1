"""Published weights in, and out again: what `seedtok convert` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertTokenizer

from seedtok.errors import CheckpointError
from seedtok.files import assign_strictly, read_json
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.weights import blip2, official
from seedtok.weights.official import Heads
from seedtok.weights.sources import read_folder, read_official_files
from seedtok.writing import whole_file


@dataclass(frozen=True)
class Conversion:
    """What was made of what: `left_out` has the names of tensors that were not used, and why."""

    kind: str
    tensors: int
    parameters: int
    left_out: dict[str, str]


def convert(
    sources: Sequence[Path], out: Path, heads: Heads | None = None, image_decoder: str | None = None
) -> Conversion:
    """Published SEED files, or a folder of BLIP-2 in transformers' format -> a folder of ours.

    `image_decoder` takes the place of the one that the checkpoint was trained for. Raises CheckpointError for anything
    else, and for a tensor that is missing, of another shape, or not known.
    """
    if len(sources) == 1 and sources[0].is_dir():
        return _convert_blip2(sources[0], out)
    tensors = read_official_files(sources)
    config, state = official.read_official(tensors, heads)
    if image_decoder is not None:
        config = replace(config, image_decoder=image_decoder)
    with torch.device("meta"):
        model = SeedTokenizer(config)
    _assign(model, state, ", ".join(map(str, sources)))
    model.save_pretrained(out)
    successor = config.image_head is not None or "pos_embed_image" in tensors
    return _report("SEED's successor" if successor else "SEED, the paper's", tensors, model, official.LEFT_OUT)


def export(model: SeedTokenizer, out: Path) -> int:
    """Writes a tokenizer of ours as a published one, under ["model"]; returns how many tensors it has.

    Raises CheckpointError for one that the published layout cannot hold.
    """
    tensors = official.to_official(model.config, model.state_dict())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as temporary:
            torch.save({"model": {name: tensor.contiguous() for name, tensor in tensors.items()}}, temporary)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {out}: {error}") from None
    return len(tensors)


def _convert_blip2(folder: Path, out: Path) -> Conversion:
    if (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder} is a diffusion model, which is used as it is: give it as --image-decoder")
    record = read_json(folder / "config.json")
    kind = record.get("model_type")
    if kind != "blip-2":
        raise CheckpointError(f"{folder} is a model of type {kind!r}; a BLIP-2 is converted, an LM is used as it is")
    tensors = read_folder(folder)
    config, state = blip2.read_blip2(tensors, record)
    words = None
    if config.qformer.vocab_size is not None:
        words = BertTokenizer.from_pretrained(str(folder)) if (folder / "vocab.txt").is_file() else None
    with torch.device("meta"):
        model = ImageTextEmbedder(config, words)
    _assign(model, state, str(folder))
    model.save_pretrained(out)
    return _report("BLIP-2", tensors, model, blip2.LEFT_OUT)


def _assign(model: torch.nn.Module, state: dict[str, Tensor], where: str) -> None:
    """In the checkpoint's own precision."""
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    dtype = torch.float32 if len(kinds) > 1 else kinds.pop()
    assign_strictly(model, state, where, {"": dtype, "codebook.": torch.float32})


def _report(kind: str, tensors: dict[str, Tensor], model: torch.nn.Module, known: dict[str, str]) -> Conversion:
    reasons = {name: reason for name in tensors for start, reason in known.items() if name.startswith(start)}
    return Conversion(kind, len(tensors), sum(p.numel() for p in model.parameters()), reasons)
