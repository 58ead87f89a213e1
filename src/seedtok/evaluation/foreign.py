"""Models of transformers, loaded by a folder or hub id, and what kind of model a name stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from seedtok.core.errors import CheckpointError
from seedtok.core.files import hash_of_files
from seedtok.core.hub import MINI, cache_only, local_folder, locate
from seedtok.core.kinds import AUTO, CAUSAL_LM, LM, NAMES, is_causal_lm, kind_of
from seedtok.core.notices import quietly
from seedtok.evaluation.preprocessing import PROCESSOR_FILES, Preprocessing
from seedtok.lm.base import loading_errors

T = TypeVar("T")


def format_of(name: str | Path) -> str:
    """What the configuration of a checkpoint says it is: a format of `core.kinds`, or a model type of transformers.

    `name` is a folder or hub id; "mini" is "mini". Raises CheckpointError where there is none, or it says nothing.
    """
    if name == MINI:
        return MINI
    source = locate(name, "tokenizer")
    folder = local_folder(source, "tokenizer")
    if folder is not None:
        kind = kind_of(folder)
        if kind is None:
            raise CheckpointError(f"{folder} is no checkpoint that can be evaluated; `seedtok info` says what it is")
        return kind.format
    from transformers import PretrainedConfig

    cached = cache_only(source, "config.json")
    try:
        record, _ = PretrainedConfig.get_config_dict(source, local_files_only=cached)
    except loading_errors() as error:
        raise CheckpointError(f"cannot read the configuration of {source}: {_line(error)}") from None
    if record.get("model_type") == AUTO:
        return LM
    return str(record.get("format") or (CAUSAL_LM if is_causal_lm(record) else record.get("model_type")))


def loader_for(name: str | Path, loaders: dict[str, Callable[[], T]], task: str) -> Callable[[], T]:
    """The loader for the format of checkpoint `name`; raises CheckpointError if the task supports no such format."""
    found = format_of(name)
    if found not in loaders:
        taken = ", ".join(NAMES[known] for known in loaders if known in NAMES)
        raise CheckpointError(f"{name} is {NAMES.get(found, f'a model of type {found}')}: for {task}, give {taken}")
    return loaders[found]


@quietly("transformers")
def load_foreign(kind: Any, name: str | Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """A model of one of transformers' classes, in eval mode; raises CheckpointError where it is not whole."""
    source, cached = _source(name)
    try:
        model, report = kind.from_pretrained(
            source, dtype=dtype, local_files_only=cached, trust_remote_code=False, output_loading_info=True
        )
    except loading_errors() as error:
        raise CheckpointError(f"cannot load a {kind.__name__} from {name}: {_line(error)}") from None
    if report["missing_keys"]:
        raise CheckpointError(
            f"cannot load a {kind.__name__} from {name}: it lacks tensor {min(report['missing_keys'])}"
        )
    return model.eval().requires_grad_(False).to(device)


@quietly("transformers")
def load_words(name: str | Path, **options: Any) -> Any:
    """The text tokenizer beside a model of transformers."""
    from transformers import AutoTokenizer

    source, cached = _source(name)
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=cached, trust_remote_code=False, **options)
    except Exception as error:  # of a broken file the tokenizers library raises plain Exception
        raise CheckpointError(f"cannot load a text tokenizer from {name}: {_line(error)}") from None


@quietly("transformers")
def load_preprocessing(name: str | Path, side: int) -> Preprocessing:
    """The image processor beside a model of transformers, on Pillow; where it has none, pictures are stretched."""
    from transformers import AutoImageProcessor

    source, cached = _source(name)
    folder = Path(source)
    if folder.is_dir() and not any((folder / file).is_file() for file in PROCESSOR_FILES):
        return Preprocessing(side)
    try:
        processor = AutoImageProcessor.from_pretrained(
            source, local_files_only=cached, trust_remote_code=False, backend="pil"
        )
    except loading_errors() as error:
        raise CheckpointError(f"cannot load an image processor from {name}: {_line(error)}") from None
    return Preprocessing(side, processor)


def identity_of(name: str | Path, part: str = "tokenizer") -> dict[str, str]:
    """What tells a checkpoint from others: a hub id and its revision, or a hash of its files."""
    source = locate(name, part)
    folder = local_folder(source, part)
    if folder is None:
        return {"hub": source, **_revision(source)}
    return {"files": hash_of_files(folder)}


def _revision(hub_id: str) -> dict[str, str]:
    """The commit of a repository that is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "model_index.json", "pytorch_lora_weights.safetensors"):
        if isinstance(path := try_to_load_from_cache(hub_id, file), str):
            return {"revision": Path(path).parent.name}
    return {}


def _source(name: str | Path) -> tuple[str, bool]:
    """A folder, or a hub id, and whether it is read from the disk alone; raises CheckpointError for neither."""
    source = locate(name, "tokenizer")
    folder = local_folder(source, "tokenizer")
    return (str(folder), True) if folder is not None else (source, cache_only(source, "config.json"))


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
