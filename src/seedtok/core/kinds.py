"""The kind of checkpoint in a folder, its use and its size, from its configuration and its headers alone."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from seedtok.core.errors import CheckpointError
from seedtok.core.text import one_line

TOKENIZER, EMBEDDER, LM = "seedtok.tokenizer", "seedtok.embedder", "seedtok.lm"
PREFIX_LM = "seedtok.blip2"  # by its first use
JUDGE, VISION, VQKD, GILL = "seedtok.judge", "seedtok.vision", "seedtok.vqkd", "seedtok.gill"
SCENE_CLIP = "seedtok.scene_clip"
OURS = "seedtok"  # the family of all these
VQVAE = "vq-vae"  # of diffusers
PARTS_OF_FINETUNING = "finetuning."  # what names of its recipes begin with
AUTO = "seed_lm"  # model type of a SEED language model for transformers' Auto classes
CAUSAL_LM = "causal LM"  # of transformers; with the codes among its tokens, a SEED language model
NAMES = {
    TOKENIZER: "a SEED tokenizer",
    EMBEDDER: "an embedder of stage I",
    LM: "a SEED language model",
    PREFIX_LM: "a baseline that reads images as vectors",
    JUDGE: "a scene judge",
    VISION: "an image encoder",
    VQKD: "a BEiT v2 tokenizer",
    GILL: "a GILL baseline",
    VQVAE: "a VQ-VAE of diffusers",
    SCENE_CLIP: "a CLIP of scenes",
    "diffusion": "a diffusion model",
    "run": "the folder of a training run",
    "clip": "a CLIP",
    "blip-2": "a BLIP-2 of transformers",
    "autoencoder": "an autoencoder",
    CAUSAL_LM: "a language model of transformers",
}


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint, a key of `NAMES`, and one line on what to do with it next."""

    format: str
    next: str

    @property
    def name(self) -> str:
        return NAMES[self.format]


def kind_of(folder: Path) -> Kind | None:
    """The kind of checkpoint in a folder; None where it is unknown or cannot be read."""
    where = shlex.quote(str(folder))
    if (folder / "model_index.json").is_file():
        return Kind("diffusion", f"use it as an image decoder, with stage.image_decoder={where} or --image-decoder")
    record = _record(folder / "config.json")
    if "recipe" in record and "stage" in record:
        return Kind("run", _after_run(folder, str(record["recipe"])))
    own, foreign = record.get("format"), record.get("model_type")
    if own == EMBEDDER:
        qformer = record.get("qformer")
        if isinstance(qformer, dict) and qformer.get("causal") is False:
            return Kind(EMBEDDER, f"start stage I from it: seedtok train mini.stage1 --out RUN stage.start={where}")
        return Kind(EMBEDDER, f"train stage II on it: seedtok train mini.stage2 --out RUN stage.embedder={where}")
    uses = {
        TOKENIZER: f"encode, decode, reconstruct, tokenize and `serve --only tokenizer` take it as --model {where}",
        LM: f"caption, ask, draw and chat take it as --model {where}",
        PREFIX_LM: "only the evaluation uses it",
        JUDGE: "only the evaluation uses it",
        SCENE_CLIP: f"compare drawings by it: seedtok evaluate generation --clip {where}",
        VISION: f"train a Q-Former on it: seedtok train mini.bidirectional --out RUN stage.clip={where}",
        VQKD: f"train a language model to read its codes: seedtok train mini.reader --out RUN stage.tokens={where}",
        GILL: f"compare its drawings with SEED's: seedtok evaluate generation --gill {where}",
    }
    if isinstance(own, str) and own in uses:
        return Kind(own, uses[own])
    if record.get("_class_name") == "PatchAutoencoder":
        return Kind("autoencoder", f"train a diffusion model on it: stage.autoencoder={where}")
    if record.get("_class_name") == "VQModel":
        use = f"train a language model to read its codes: seedtok train mini.reader --out RUN stage.tokens={where}"
        return Kind(VQVAE, use)
    published = {
        "clip": f"train a Q-Former on its ViT: seedtok train mini.bidirectional --out RUN stage.clip={where}",
        "blip-2": f"convert it: seedtok convert {where} --out FOLDER",
    }
    if isinstance(foreign, str) and foreign in published:
        return Kind(foreign, published[foreign])
    if foreign == AUTO:
        return Kind(LM, uses[LM])
    if is_causal_lm(record):
        return Kind(CAUSAL_LM, f"train SEED-OPT on it: seedtok train mini.stage3a --out RUN stage.base={where}")
    return None


def is_causal_lm(config: dict[str, Any]) -> bool:
    """Whether a configuration is of a causal language model of transformers."""
    classes = config.get("architectures")
    return isinstance(classes, list) and any("ForCausalLM" in str(name) for name in classes)


def family_of(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """The family of the checkpoint in a folder, and its configuration; None where there is no checkpoint.

    The family is `OURS`, or else a model type of transformers or a class of diffusers, such as "opt".
    """
    for name in ("config.json", "model_index.json"):
        config = _record(folder / name)
        if str(config.get("format")).startswith("seedtok."):
            return OURS, config
        if config:
            family = config.get("model_type") or config.get("_class_name")
            return (None if family is None else str(family)), config
    return None, {}


def holds_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in a format of this package."""
    return family_of(folder)[0] == OURS


def check_kind(folder: Path, wanted: str) -> None:
    """Raises CheckpointError for a folder of another known kind, and says what it is and what it is used for."""
    kind = kind_of(folder)
    if kind is not None and kind.format != wanted:
        raise CheckpointError(f"{folder} is {kind.name}, not {NAMES[wanted]}: {kind.next}")


def stored_parts(folder: Path) -> dict[str, dict[str, int]]:
    """Parameters and bytes of each part of a checkpoint, read from the headers of its safetensors files.

    A part is a sub-folder, or else the first component of the tensors' names. Raises CheckpointError for a broken file.
    """
    parts: dict[str, dict[str, int]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        inner = path.parent.relative_to(folder).as_posix()
        for name, shape, size in stored_tensors(path):
            part = parts.setdefault(name.split(".")[0] if inner == "." else inner, {"parameters": 0, "bytes": 0})
            part["parameters"] += prod(shape)
            part["bytes"] += size
    return parts


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _after_run(folder: Path, recipe: str) -> str:
    final = folder / "final"
    kind = kind_of(final) if final.is_dir() else None
    if kind is not None:
        return f"its result, {final}, is {kind.name}; {kind.next}"
    if final.is_dir():
        return f"its result is {final}"
    if recipe.startswith(PARTS_OF_FINETUNING):  # which `seedtok train` has not
        return "it has no result yet; the `seedtok finetune` that began it goes on with it"
    name, place = shlex.quote(one_line(recipe)), shlex.quote(str(folder))
    return f"it has no result yet; resume it: seedtok train {name} --out {place} --resume"


def stored_tensors(path: Path) -> Iterator[tuple[str, list[int], int]]:
    """The name, shape and bytes of each tensor of a safetensors file, read from its header, without torch.

    Raises CheckpointError for a file that is missing or broken.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("it is truncated, or not a safetensors file")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                yield name, [int(n) for n in entry["shape"]], int(last) - int(first)
    except FileNotFoundError:
        raise CheckpointError(f"not a checkpoint: {path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
