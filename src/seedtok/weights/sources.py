"""Tensors out of files that others wrote: pickles without their code, safetensors, whole or in parts."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from seedtok.core.errors import CheckpointError
from seedtok.core.files import read_json, read_tensors

UNDER = ("model", "state_dict", "module")  # where a training checkpoint keeps its weights
VISION = "visual_encoder."
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")  # of BERT's tokenizer, in whichever form it was saved


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .pt file, read without running code.

    Raises CheckpointError for a missing or truncated file, one that wants code run, or one without named tensors.
    """
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except FileNotFoundError:
        raise CheckpointError(f"no such file: {path}") from None
    except pickle.UnpicklingError as error:
        code = "Unsupported global" in str(error) or "not an allowed global" in str(error)
        what = "wants code run, which is not done" if code else "is truncated or no checkpoint"
        raise CheckpointError(f"{path} {what}") from None
    except (OSError, RuntimeError, EOFError, BadZipFile, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} is truncated or no checkpoint: {reason}") from None
    for key in UNDER:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not held or not all(isinstance(t, Tensor) for t in held.values()):
        raise CheckpointError(f"{path} holds no named tensors")
    return {str(name): tensor for name, tensor in held.items()}


def read_official_files(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The tensors of published files together; those of a file that is a ViT alone under the name of the whole's.

    Raises CheckpointError as `read_pickle` does, and for two files that differ in a tensor.
    """
    found: dict[str, Tensor] = {}
    source: dict[str, Path] = {}
    for path in paths:
        tensors = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)
        prefix = VISION if "patch_embed.proj.weight" in tensors else ""
        for name, tensor in tensors.items():
            name = prefix + name
            if name in found and not torch.equal(found[name], tensor):
                raise CheckpointError(f"{source[name]} and {path} differ in tensor {name!r}")
            found[name], source[name] = tensor, path
    return found


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder of transformers': model.safetensors, its parts, or a pickle of either.

    Raises CheckpointError where there is none, or a part is missing.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        read = read_tensors if name.endswith(".safetensors") else read_pickle
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read(folder / name)
        if index.is_file():
            named = read_json(index).get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(part, str) for part in named.values()):
                raise CheckpointError(f"{index} does not say which files have the weights")
            parts = sorted(set(named.values()))
            return {key: tensor for part in parts for key, tensor in read(folder / part).items()}
    raise CheckpointError(f"no weights in {folder}: expected model.safetensors, or its parts and their index")


def tokenizer_folder(name: str) -> Path:
    """The folder of a BERT tokenizer by folder or hub id, of which no more than the tokenizer is downloaded.

    Raises CheckpointError where there is none: transformers takes an empty one in its place.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, allow_patterns=[*TOKENIZER_FILES, "tokenizer_config.json"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"no folder {name} of a text tokenizer, and the hub gave none: {reason}") from None
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise CheckpointError(f"no text tokenizer in {name}: expected {' or '.join(TOKENIZER_FILES)}")
    return folder


def _is_zip(path: Path) -> bool:
    """Whether a file is of the format that can be mapped; older pickles are read whole."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"
