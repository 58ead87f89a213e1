"""Readers of published weights: pickles, of which no code is run, and safetensors, in one file or in parts."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from seedtok.core.errors import CheckpointError
from seedtok.core.files import read_json, read_tensors
from seedtok.core.hub import downloaded

WEIGHT_KEYS = ("model", "state_dict", "module")  # where training checkpoints store the weights
VISION = "visual_encoder."
CODEBOOK = "quantize.embedding.weight"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")  # of BERT's tokenizer: one of the two


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .pt file; no code in it is run.

    Raises CheckpointError for a missing or truncated file, one that would have to run code, and one without named
    tensors.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except FileNotFoundError:
        raise CheckpointError(f"no such file: {path}") from None
    except pickle.UnpicklingError as error:
        code = "Unsupported global" in str(error) or "not an allowed global" in str(error)
        what = "would have to run code, which is refused" if code else "is truncated or not a checkpoint"
        raise CheckpointError(f"{path} {what}") from None
    except (OSError, RuntimeError, EOFError, BadZipFile, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} is truncated or not a checkpoint: {reason}") from None
    for key in WEIGHT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{path} has no named tensors")
    return {str(name): tensor for name, tensor in content.items()}


def read_official_files(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The tensors of several published files; those of a ViT alone get the prefix that they have in the tokenizer.

    Of a tensor that two files have, that of the file with the codebook counts, which its authors load over the others.
    Raises CheckpointError as `read_pickle` does, and for two other files that differ in a tensor.
    """
    read = {path: read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path) for path in paths}
    found: dict[str, Tensor] = {}
    source: dict[str, Path] = {}
    for path, tensors in sorted(read.items(), key=lambda item: CODEBOOK in item[1]):
        prefix = VISION if "patch_embed.proj.weight" in tensors else ""
        for name, tensor in tensors.items():
            name = prefix + name
            if name in found and CODEBOOK not in tensors and not _is_same(found[name], tensor):
                raise CheckpointError(f"{source[name]} and {path} differ in tensor {name!r}")
            found[name], source[name] = tensor, path
    return found


def _is_same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal, in the coarser of their dtypes."""
    dtype = min(first, second, key=Tensor.element_size).dtype
    return torch.equal(first.to(dtype), second.to(dtype))


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of transformers: of model.safetensors or pytorch_model.bin, or of their parts.

    Raises CheckpointError where there are none, or a part is missing.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        read = read_tensors if name.endswith(".safetensors") else read_pickle
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read(folder / name)
        if index.is_file():
            named = read_json(index).get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(part, str) for part in named.values()):
                raise CheckpointError(f"{index} has no valid weight_map")
            parts = sorted(set(named.values()))
            return {key: tensor for part in parts for key, tensor in read(folder / part).items()}
    raise CheckpointError(f"no weights in {folder}: expected model.safetensors, or its parts and their index")


def tokenizer_folder(name: str) -> Path:
    """The folder of a BERT tokenizer, given by a folder or a hub id; only the tokenizer's files are downloaded.

    Raises CheckpointError where there is none (transformers would silently make an empty one), and as
    `hub.downloaded` does.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = downloaded(name, *TOKENIZER_FILES, patterns=[*TOKENIZER_FILES, "tokenizer_config.json"])
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise CheckpointError(f"no text tokenizer in {name}: expected {' or '.join(TOKENIZER_FILES)}")
    return folder


def _is_zip(path: Path) -> bool:
    """Whether a file is a zip archive, which can be memory-mapped; older pickles cannot."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"
