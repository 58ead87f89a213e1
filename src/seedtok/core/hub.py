"""Where checkpoints are: in the package, in a folder or on a model hub; and how one checkpoint names another.

A source identifies a checkpoint: "mini" (shipped with the package), the absolute path of a folder, or a hub id. A
checkpoint on disk names the sources of its parts without absolute paths: see `recorded`.
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
PAPER = "https://arxiv.org/abs/2307.08041"
ANSWER_SECONDS = 4.0  # time limit of the hub's answer on whether a repository exists
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
FIELDS = {"opt": "base", "tokenizer": "tokenizer", "diffusion": "image_decoder"}  # the field of a part in config.json


def shipped(part: str) -> Path:
    """The folder of a part of the mini weights that are shipped with the package."""
    return Path(str(files("seedtok") / "pretrained" / "mini" / part))


def source_of(name: str | Path, part: str, beside: Path | None = None) -> str:
    """The source of a checkpoint that a user or another checkpoint names, whether or not it exists.

    The string "mini" means the shipped `part`. A `Path`, or a string such as "./mini", is a folder; any other string is
    a folder if that exists, and otherwise a hub id if it has the form of one. Folders are relative to `beside`, the
    folder of the checkpoint that names them, or else to the working directory.
    """
    if name == MINI:
        return MINI
    folder = Path(os.path.expanduser(name)) if beside is None else beside / name
    own_copy = beside is not None and name == FIELDS.get(part)  # "base" is a sub-folder of the checkpoint, not a hub id
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
    if source == MINI:
        raise CheckpointError(f"the package has no {part}: train one, and give its folder")
    if beside is None:
        raise CheckpointError(f"no such checkpoint: {name} (expected 'mini', a folder, or a hub id)")
    option = {"opt": " (--base)", "tokenizer": " (--tokenizer)"}.get(part, "")
    raise CheckpointError(
        f'"{FIELDS[part]}" in {beside / "config.json"} is {name}, and there is no such folder: '
        f"put it there, or give another{option}"
    )


def named_part(record: dict[str, Any], field: str, folder: Path) -> str:
    """The name of a part in the config.json of a folder; raises CheckpointError where there is none."""
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
    """The folder of a checkpoint of this package, downloaded if it is on a hub.

    The arguments are those of `locate`. Raises CheckpointError where there is no such checkpoint.
    """
    source = locate(name, part, beside)
    folder = local_folder(source, part)
    return folder if folder is not None else downloaded(source)


# ------------------------------------------------------------ the hub


def downloaded(repo_id: str, *files: str, patterns: list[str] | None = None) -> Path:
    """The local folder of a repository on the hub, downloaded or from the cache.

    `files` are those of which it has one, "config.json" where none are given; only the files of `patterns` are
    downloaded, where there are any. Raises CheckpointError for a repository that is missing or gated, and where the hub
    cannot be reached.
    """
    from huggingface_hub import snapshot_download

    only_cache = cache_only(repo_id, *(files or ("config.json",)))
    try:
        return Path(snapshot_download(repo_id, local_files_only=only_cache, allow_patterns=patterns))
    except Exception as error:  # also of the HTTP library, which differs between releases of huggingface_hub
        raise CheckpointError(f"cannot download {repo_id}: {_first_line(error)}") from None


def cache_only(repo_id: str, *files: str) -> bool:
    """Whether to read a repository from the cache, because the hub does not answer within `ANSWER_SECONDS`.

    `files` are those of which the repository has one. Raises CheckpointError for a repository that does not exist or is
    not accessible, and for one that is not in the cache while the hub cannot be reached.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    problem = _access_error(repo_id)
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
    if any(isinstance(try_to_load_from_cache(repo_id, file), str) for file in files):
        return True
    if isinstance(problem, OfflineModeIsEnabled):
        raise CheckpointError(f"{repo_id}: no such folder, not in the cache, and HF_HUB_OFFLINE forbids a download")
    raise CheckpointError(
        f"{repo_id}: no such folder, not in the cache, and the hub cannot be reached: {_first_line(problem)}"
    )


def _access_error(repo_id: str) -> Exception | None:
    """The error of asking the hub for a repository, None where it is accessible; takes at most `ANSWER_SECONDS`.

    The request runs in a thread, because the time limit of the HTTP library does not cover the DNS look-up.
    """
    from huggingface_hub import HfApi

    problems: list[Exception | None] = []

    def request() -> None:
        try:
            api = HfApi()
            if api.model_info(repo_id, timeout=ANSWER_SECONDS).gated:
                api.auth_check(repo_id)
            problems.append(None)
        except Exception as error:  # also of the HTTP library, which differs between releases of huggingface_hub
            problems.append(error)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return problems[0] if problems else TimeoutError(f"no answer within {ANSWER_SECONDS:.0f} seconds")


def push(folder: Path, repo_id: str, card: str, private: bool, token: str | None) -> str:
    """Uploads a folder to a model hub, with a model card unless the repository has one; returns the commit's URL.

    Raises CheckpointError where the hub cannot be reached or refuses.
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
    except Exception as error:  # also of the HTTP library, which differs between releases of huggingface_hub
        raise CheckpointError(f"cannot upload to {repo_id}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# ------------------------------------------------------------ parts of a checkpoint


def recorded(source: str, part: str, folder: Path, new: Path, copy: bool = False) -> str:
    """The name that config.json gives to a part: of the checkpoint at `folder`, which is being written at `new`.

    "mini" and hub ids are kept. A folder is named relative to the checkpoint, so that both can be moved together; with
    `copy`, or where it is in the hub's cache or on another drive, it is copied into the checkpoint instead. Raises
    CheckpointError for a folder to be copied that has a link to elsewhere, whose file might be nobody else's business.
    """
    path = None if source == MINI else local_folder(source, part)
    if path is None:
        return source
    if not copy and not _in_hub_cache(path):
        try:
            return Path(os.path.relpath(path, folder.resolve())).as_posix()
        except ValueError:  # on another drive, on Windows
            pass
    name = FIELDS[part]
    _check_links(path)
    shutil.copytree(path, new / name)
    without_paths(new / name)
    return name


def _check_links(folder: Path) -> None:
    """Raises CheckpointError for a link to a file that is neither in the folder nor in a cache of the hub."""
    folder = folder.resolve()
    blobs = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder
    for path in folder.rglob("*"):
        target = path.resolve()
        allowed = target.is_relative_to(folder) or target.is_relative_to(blobs) or _in_hub_cache(target)
        if path.is_symlink() and not allowed:
            raise CheckpointError(f"{path} is a link out of its folder, which is not copied: put the file itself there")


def _in_hub_cache(path: Path) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    return path.is_relative_to(Path(HF_HUB_CACHE).resolve())


def without_paths(folder: Path) -> None:
    """Removes the fields of JSON files in which other libraries record a local path, such as "_name_or_path"."""
    for path in folder.rglob("*.json"):
        try:
            record: Any = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict):
            kept = {key: value for key, value in record.items() if not key.endswith("_name_or_path")}
            if len(kept) < len(record):
                path.write_text(json.dumps(kept, indent=2), encoding="utf-8")


# ------------------------------------------------------------ model cards


def tokenizer_card(repo_id: str, image_decoder: str, license: str | None) -> str:
    """The model card of a SEED tokenizer; `image_decoder` is the source of its image decoder."""
    what = f"A SEED tokenizer: images as discrete causal codes, and back ({PAPER})."
    usage = (
        "from seedtok import SeedTokenizer", f"tokenizer = SeedTokenizer.from_pretrained({repo_id!r})",
        'codes = tokenizer.encode("image.png")', "images = tokenizer.decode(codes)",
    )  # fmt: skip
    return _card(repo_id, what, usage, {"Image decoder": image_decoder}, license)


def lm_card(repo_id: str, base: str, tokenizer: str | None, license: str | None) -> str:
    """The model card of a SEED language model; `base` and `tokenizer` are the sources of its parts."""
    what = f"A SEED language model: it reads and writes texts and the codes of images ({PAPER})."
    usage = (
        "from seedtok import SeedLM", f"lm = SeedLM.from_pretrained({repo_id!r})", 'print(lm.caption("image.png"))',
        'lm.draw("a fox")[0].save("fox.png")',
    )  # fmt: skip
    return _card(repo_id, what, usage, {"Base language model": base, "Image tokenizer": tokenizer}, license)


def _card(repo_id: str, what: str, usage: tuple[str, ...], parts: dict[str, str | None], license: str | None) -> str:
    """A model card with description, usage, parts and license; the uploader adds the evaluation."""
    from huggingface_hub import ModelCardData

    where = {n: "in this repository" if s is None or os.path.isabs(s) else s for n, s in parts.items()}
    base = [s for s in parts.values() if s and s != MINI and not os.path.isabs(s)]
    data = ModelCardData(library_name="seedtok", license=license, tags=["seedtok"], base_model=base or None)
    return "\n\n".join((
        f"---\n{data.to_yaml()}\n---",
        f"# {repo_id.rpartition('/')[2]}",
        what,
        "\n".join(("```python", *usage, "```")),
        "\n".join(f"- {name}: {place}" for name, place in where.items()),
        f"License: {license or 'not stated; ask who uploaded this'}.",
        "Evaluation: add the numbers that you measured, such as those of `seedtok evaluate`.",
    )) + "\n"  # fmt: skip
