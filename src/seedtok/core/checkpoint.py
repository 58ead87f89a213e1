"""A checkpoint: a folder with config.json and safetensors files, from which a model builds itself.

config.json has the "format" and "version" of the checkpoint beside the model's own configuration, and names other
checkpoints relative to the folder (`core.hub.recorded`). Nothing in it is unpickled; a missing or extra tensor is an
error. The weights of a base language model of transformers may be a pickle, of which only tensors are read (`lm.base`).

    with checkpoint_folder(folder) as new:
        write_checkpoint(new, EMBEDDER, VERSION, asdict(model.config), model.state_dict())

    config = read_config(folder, EMBEDDER, VERSION)
    model = load_model(lambda: Model(Config.from_dict(config)), config, folder / WEIGHTS)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from seedtok.core.atomic import hidden_folder, move_into
from seedtok.core.errors import CheckpointError
from seedtok.core.files import assign_strictly, built_for, read_json, read_tensors, write_tensors
from seedtok.core.kinds import NAMES, OURS, check_kind, family_of

M = TypeVar("M", bound=nn.Module)
CONFIG, WEIGHTS = "config.json", "model.safetensors"

# What may be left of an earlier checkpoint in the same folder and would be loaded as a part of the new one.
OPTIONAL_FILES = ("familiarity.safetensors", "language_projection.safetensors")
OPTIONAL_FOLDERS = ("text_tokenizer", "adapter")
FOUND_BY_NAME = (  # files that the loaders of transformers, diffusers and peft look for
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json",
    "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.safetensors.index.json",
    "adapter_model.safetensors", "adapter_config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip


# ---------------------------------------------------------------- writing


@contextmanager
def checkpoint_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder whose files, when the block succeeds, replace those of the same names in `folder`.

    Each file is replaced atomically, config.json last; when the block raises, nothing changes. Files of other names
    stay, with one exception: where `folder` held a checkpoint of the same family, or both are SEED language models as
    `seedtok export` writes them, those of its weights and of its tokenizer that the new one does not have, and that a
    loader would take for parts of it, are removed. Raises CheckpointError when the files cannot be written, such as on
    a full disk.
    """
    folder = folder.expanduser()
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hidden_folder(folder) as new:
            yield new
            move_into(new, folder, _outdated_files(folder, new))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from None
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty: the files were written
                folder.rmdir()


def write_checkpoint(
    folder: Path, kind: str, version: int, config: Mapping[str, Any], tensors: Mapping[str, Tensor],
    weights: str = WEIGHTS,
) -> None:  # fmt: skip
    """Writes config.json and a safetensors file into an existing folder, such as that of `checkpoint_folder`.

    `kind` and `version` become "format" and "version" in config.json; `weights` names the safetensors file.
    """
    record = {"format": kind, "version": version, **config}
    (folder / CONFIG).write_text(json.dumps(record, indent=1))
    write_tensors(folder / weights, tensors)


def _outdated_files(folder: Path, new: Path) -> list[Path]:
    """The files of the checkpoint in `folder` that the one in `new` does not have and a loader would take for its own.

    None unless both are of one family, or exports of SEED language models. What the new configuration names as a part
    stays.
    """
    (family, config), (before, replaced) = family_of(new), family_of(folder)
    are_exports = "seedtok" in config and "seedtok" in replaced  # on whatever base
    if family is None or (family != before and not are_exports):
        return []
    named = {Path(value).parts[:1] for value in config.values() if isinstance(value, str)}
    parts = {path.name for path in new.iterdir() if path.is_dir()} | set(OPTIONAL_FOLDERS)
    places = [folder / part for part in sorted(parts) if (new / part).is_dir() or (part,) not in named]
    outdated = [folder / name for name in OPTIONAL_FILES if family == OURS and not (new / name).exists()]
    if family != OURS:  # a checkpoint of ours rewrites every other file beside config.json
        places.append(folder)
    return [path for path in outdated if path.is_file()] + [
        path
        for place in places
        if place.is_dir() and not place.is_symlink()
        for path in place.iterdir()
        if any(fnmatch(path.name, pattern) for pattern in FOUND_BY_NAME)
        and not path.is_dir()
        and not (new / path.relative_to(folder)).exists()
    ]


# ---------------------------------------------------------------- reading


def read_config(folder: Path, kind: str, version: int) -> dict[str, Any]:
    """The config.json of a checkpoint of a kind, without its "format" and "version".

    A missing "version" is 1. Raises CheckpointError where the file is missing or broken, for another kind of
    checkpoint, and for another version.
    """
    check_kind(folder, kind)
    config = read_json(folder / CONFIG)
    if config.pop("format", None) != kind:
        raise CheckpointError(f"{folder} is not {NAMES[kind]}")
    check_version(config.pop("version", 1), version, folder)
    return config


def check_version(found: object, version: int, place: object) -> None:
    """Raises CheckpointError where the version of a format, found in `place`, is not the one that is read."""
    if found != version:
        remedy = ": upgrade it, with pip install -U seedtok" if isinstance(found, int) and found > version else ""
        raise CheckpointError(f"{place} is of version {found}; this release reads version {version}{remedy}")


def load_model(
    build: Callable[[], M],
    config: Any,
    weights: Path,
    dtypes: dict[str, torch.dtype] | None = None,
    others: Mapping[str, Tensor] | None = None,
) -> M:
    """A module, in eval mode, with the tensors of a safetensors file.

    Args:
        build: makes the module; called on the meta device, so that it takes neither memory nor initialisation.
        config: the JSON object with the sizes that `build` uses, checked before it is called.
        weights: the safetensors file.
        dtypes: as for `core.files.assign_strictly`; float32 for all unless given.
        others: tensors of the module that are not in the file, by name.

    Raises:
        CheckpointError: sizes that no model can have; a tensor that is missing, extra, of another shape or not finite.
    """
    with built_for(config, weights):
        model = build()
    tensors = read_tensors(weights) | dict(others or {})
    assign_strictly(model, tensors, str(weights.parent), dtypes or {"": torch.float32})
    return model.eval()
