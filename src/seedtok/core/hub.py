"""Where checkpoints are: in the package, in a folder, on a model hub; and how one checkpoint names another.

A source is what names a checkpoint for good: "mini" (shipped with the package), the absolute path of a folder, or a hub
id. A checkpoint on disk records the sources of its parts without paths of the machine: see `recorded`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from importlib.resources import files
from pathlib import Path
from typing import Any

from seedtok.core.errors import CheckpointError

MINI = "mini"
ANSWER_SECONDS = 4.0  # how long the hub may take to say whether it has a repository
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
FIELDS = {"opt": "base", "tokenizer": "tokenizer", "diffusion": "image_decoder"}  # what config.json calls a part


def shipped(part: str) -> Path:
    """A folder of the mini weights that come with the package."""
    return Path(str(files("seedtok") / "pretrained" / "mini" / part))


def source_of(name: str | Path, part: str, beside: Path | None = None) -> str:
    """The source of a checkpoint that a user or another checkpoint names, whether or not it exists.

    The string "mini" is the shipped `part`; a `Path`, or a string such as "./mini", is a folder; any other string is
    a folder if there is one, or else a hub id if it can be one. A folder is relative to the folder `beside`, which is
    that of the checkpoint that names it; by default to the working directory.
    """
    if name == MINI:
        return MINI
    folder = Path(os.path.expanduser(name)) if beside is None else beside / name
    own_copy = beside is not None and name == FIELDS.get(part)  # "base" is a folder of the checkpoint, and no hub id
    hub_id = isinstance(name, str) and bool(HUB_ID.fullmatch(name)) and ("/" in name or part == "opt")
    if hub_id and not own_copy and not folder.exists():
        return str(name)
    folder = folder.resolve()
    return MINI if folder == shipped(part).resolve() else str(folder)


def locate(name: str | Path, part: str, beside: Path | None = None) -> str:
    """As `source_of`; raises CheckpointError for a folder that does not exist."""
    source = source_of(name, part, beside)
    folder = local_folder(source, part)
    if folder is None or folder.is_dir():
        return source
    if beside is None:
        raise CheckpointError(f"no such checkpoint: {name} (expected 'mini', a folder, or a hub id)")
    option = {"opt": " (--base)", "tokenizer": " (--tokenizer)"}.get(part, "")
    raise CheckpointError(
        f'"{FIELDS[part]}" in {beside / "config.json"} is {name}, and there is no such folder: '
        f"put it there, or name another{option}"
    )


def named_part(record: dict[str, Any], field: str, folder: Path) -> str:
    """What the config.json of a folder calls a part; raises CheckpointError where it names none."""
    name = record.get(field)
    if not isinstance(name, str) or not name:
        raise CheckpointError(f'"{field}" in {folder / "config.json"} is {name!r}; expected a folder or a hub id')
    return name


def local_folder(source: str, part: str) -> Path | None:
    """The folder of a source; None for a hub id."""
    if source == MINI:
        return shipped(part)
    return Path(source) if os.path.isabs(source) else None


def resolve(name: str | Path, part: str = "tokenizer", beside: Path | None = None) -> Path:
    """The folder of a checkpoint of ours, downloaded where it is on a hub; raises CheckpointError where there is none.

    `name` as for `locate`.
    """
    source = locate(name, part, beside)
    folder = local_folder(source, part)
    return folder if folder is not None else downloaded(source)


# ------------------------------------------------------------ the hub


def downloaded(repo_id: str) -> Path:
    """The folder of all files of a repository on the hub, downloaded or from the cache.

    Raises CheckpointError, in one line, for one that is missing, gated or out of reach.
    """
    from huggingface_hub import snapshot_download

    only_cache = cache_only(repo_id, "config.json")
    try:
        return Path(snapshot_download(repo_id, local_files_only=only_cache))
    except Exception as error:  # of the HTTP library too, which differs between releases of huggingface_hub
        raise CheckpointError(f"cannot download {repo_id}: {_first_line(error)}") from None


def cache_only(repo_id: str, file: str) -> bool:
    """Whether a repository is to be read from the cache alone, because the hub does not answer within seconds.

    `file` is one that the repository has. Raises CheckpointError, in one line, for a repository that the hub does not
    have or does not give, and for one that is neither in the cache nor in reach.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    problem = _asked(repo_id)
    if problem is None:
        return False
    if isinstance(problem, HFValidationError):
        raise CheckpointError(f"{repo_id}: no such folder, and no hub id: {_first_line(problem)}")
    if isinstance(problem, GatedRepoError):
        raise CheckpointError(
            f"{repo_id} is gated: accept its terms on its page on the hub, and log in with `hf auth login`"
        )
    if isinstance(problem, RepositoryNotFoundError):
        raise CheckpointError(
            f"{repo_id}: no such folder, and no such model on the hub (if it is private, log in with `hf auth login`)"
        )
    if isinstance(try_to_load_from_cache(repo_id, file), str):
        return True
    if isinstance(problem, OfflineModeIsEnabled):
        raise CheckpointError(f"{repo_id}: no such folder, not in the cache, and HF_HUB_OFFLINE forbids a download")
    raise CheckpointError(
        f"{repo_id}: no such folder, not in the cache, and the hub cannot be reached: {_first_line(problem)}"
    )


def _asked(repo_id: str) -> Exception | None:
    """Asks the hub for a repository, without waiting longer than a few seconds; what was wrong, None for nothing.

    In a thread, because a timeout of the HTTP library does not cover the look-up of the hub's address.
    """
    from huggingface_hub import HfApi

    problems: list[Exception | None] = []

    def ask() -> None:
        try:
            api = HfApi()
            if api.model_info(repo_id, timeout=ANSWER_SECONDS).gated:
                api.auth_check(repo_id)
            problems.append(None)
        except Exception as error:  # of the HTTP library too, which differs between releases of huggingface_hub
            problems.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return problems[0] if problems else TimeoutError(f"no answer within {ANSWER_SECONDS:.0f} seconds")


def push(folder: Path, repo_id: str, card: str, private: bool, token: str | None) -> str:
    """Uploads a folder to a model hub, with a model card unless the repository has one; returns the commit's address.

    Raises CheckpointError, in one line, where the hub is out of reach or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if not api.file_exists(repo_id, "README.md"):
            (folder / "README.md").write_text(card, encoding="utf-8")
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder)))
    except OfflineModeIsEnabled:
        raise CheckpointError(f"cannot upload to {repo_id}: HF_HUB_OFFLINE forbids it") from None
    except Exception as error:  # of the HTTP library too, which differs between releases of huggingface_hub
        raise CheckpointError(f"cannot upload to {repo_id}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# ------------------------------------------------------------ parts of a checkpoint


def recorded(source: str, part: str, folder: Path, new: Path, copy: bool = False) -> str:
    """What the config.json of a checkpoint at `folder`, being written at `new`, says of a part with this source.

    "mini" and hub ids stay what they are; a folder is recorded relative to the checkpoint, so that both can move
    together. It is copied into the checkpoint instead with `copy`, and where it lies in the hub's cache or on another
    drive.
    """
    path = None if source == MINI else local_folder(source, part)
    if path is None:
        return source
    if not copy and not _in_hub_cache(path):
        try:
            return Path(os.path.relpath(path, folder.resolve())).as_posix()
        except ValueError:  # another drive of Windows
            pass
    name = FIELDS[part]
    shutil.copytree(path, new / name)
    without_paths(new / name)
    return name


def _in_hub_cache(path: Path) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    return path.is_relative_to(Path(HF_HUB_CACHE).resolve())


def without_paths(folder: Path) -> None:
    """Removes what other libraries note in JSON files of where something was loaded from, such as "_name_or_path"."""
    for path in folder.rglob("*.json"):
        try:
            record: Any = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict):
            kept = {key: value for key, value in record.items() if not key.endswith("_name_or_path")}
            if len(kept) < len(record):
                path.write_text(json.dumps(kept, indent=2), encoding="utf-8")
