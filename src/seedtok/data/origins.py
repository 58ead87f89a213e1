"""What a file of codes was made with and of, and which files of a folder are complete."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seedtok.core.errors import DataError
from seedtok.core.images import Square
from seedtok.core.notices import warn
from seedtok.data.mapped import parquet_metadata
from seedtok.data.shard_index import state_of
from seedtok.data.skipping import NO_CAPTION, read_skipped

# keys in the metadata of a file
CODEBOOK = b"seedtok.tokenizer"  # the id of the codebook
ENCODER = b"seedtok.encoder"  # the fingerprint of all that encodes
DTYPE = b"seedtok.dtype"
SHARD = b"seedtok.shard"  # the SHA-256 hash of the shard
SHARD_FILE = b"seedtok.shard_file"  # the shard's size in bytes and time of change in ns, as it was hashed


@dataclass(frozen=True)
class Maker:
    """What makes codes.

    `codebook` is the id of the codebook, `SeedTokenizer.codebook_id`. `encoder` is a fingerprint of all that encodes,
    and `dtype` the name of its dtype; "" where they are not known. With a `square`, images are stretched as they are
    read, so that full-sized ones are not kept; None leaves them as they are. `threads` is how
    many read images: several where the encoder is on a GPU.
    """

    codebook: str
    encoder: str = ""
    dtype: str = ""
    square: Square | None = None
    threads: int = 1

    def metadata(self, shard: Path) -> dict[bytes, bytes]:
        """What a file of the codes of a shard says of its origin."""
        state = shard_state(shard)
        known = {CODEBOOK: self.codebook, ENCODER: self.encoder, DTYPE: self.dtype}
        known |= {SHARD_FILE: state, SHARD: shard_hash(shard)}
        return {key: value.encode() for key, value in known.items() if value}


@dataclass(frozen=True)
class Origin:
    """What a file of codes says of what it was made with, and the hash and state of its shard; "" where it does not.

    `rows` is how many images it has the codes of.
    """

    codebook: str
    encoder: str
    dtype: str
    shard: str
    shard_file: str
    rows: int


def origin_of(path: Path) -> Origin:
    """The origin of a file of codes; raises DataError where it is not one."""
    stored = parquet_metadata(path)
    said = stored.metadata or {}
    texts = (said.get(key, b"").decode(errors="replace") for key in (CODEBOOK, ENCODER, DTYPE, SHARD, SHARD_FILE))
    return Origin(*texts, rows=stored.num_rows)


def shard_hash(path: Path) -> str:
    """The SHA-256 hash of a shard, computed about as fast as a disk reads."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None


def shard_state(path: Path) -> str:
    """The size of a shard and when it was changed: the same of what has not been written again, without reading it."""
    try:
        size, changed, _ = state_of(path)
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None
    return f"{size} {changed}"


Plan = list[tuple[Path, Path, int | None]]
Source = str | Path | Sequence[Path]  # a folder of shards, one shard, or some


def plan_shards(
    source: Source, paths: Sequence[Path], out: Path, maker: Maker, overwrite: bool, needs_caption: bool = True
) -> Plan:
    """Each shard, the file of its codes in `out`, and that file's rows where it is complete; creates `out`.

    Where no image `needs_caption`, files that leave out some for want of one are not complete.

    `paths` are the shards of `source`. Where that is a folder, a SeedTokWarning names a file in `out` that is of none
    of them. Raises DataError as `tokenize_shards` does, before it writes anything.
    """
    targets = [out / f"{path.stem}.parquet" for path in paths]
    if len(set(targets)) < len(targets):
        raise DataError("two shards have the same name, so their codes would be written to the same file: rename one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror or error}") from None
    if isinstance(source, str | Path) and Path(source).is_dir():
        _warn_of_others(source, out, set(targets))
    plan = []
    for path, target in zip(paths, targets, strict=True):
        count = _finished_rows(target, path, maker, overwrite)
        if count is not None and not needs_caption and any(r.startswith(NO_CAPTION) for _, r in read_skipped(target)):
            count = None
        plan.append((path, target, count))
    return plan


def _warn_of_others(source: str | Path, out: Path, targets: set[Path]) -> None:
    """Warns of codes in `out` that are of no current shard: they are of another source, or of shards that are gone."""
    others = sorted(path for path in out.glob("*.parquet") if path not in targets and not path.name.startswith("."))
    if not others:
        return
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    problem = f"{others[0]}{more}: of no shard in {source}, and training on {out} reads them as well"
    warn(f"{problem}; remove them if their shards are gone")


def _finished_rows(target: Path, shard: Path, maker: Maker, overwrite: bool) -> int | None:
    """The rows of a file that has the codes of a shard by this maker; None where they are to be written.

    Raises DataError for a file that may not be replaced.
    """
    if not target.exists():
        return None
    try:
        origin = origin_of(target)
    except DataError as error:
        if overwrite and target.is_file():
            return None
        raise DataError(f"{error}; remove it, or replace it with --overwrite") from None
    if not origin.codebook:
        raise DataError(f"{target} exists and does not say which tokenizer its codes are of: choose another folder")
    problem = _difference(origin, shard, maker)
    if problem is None:
        return origin.rows
    if overwrite:
        return None
    raise DataError(f"{target} {problem}, or replace it with --overwrite")


def _difference(origin: Origin, shard: Path, maker: Maker) -> str | None:
    """How a file of codes differs from that of a shard by this maker, and what to do about it; None for the same."""
    elsewhere = "write to another folder"
    if origin.codebook != maker.codebook:
        return f"has codes of another tokenizer: {elsewhere}"
    if origin.encoder and maker.encoder and origin.encoder != maker.encoder:
        return (
            f"was begun with encoder {origin.encoder}, and this one is {maker.encoder}, of the same codebook but with "
            "other weights: go on with that one"
        )
    if origin.dtype and maker.dtype and origin.dtype != maker.dtype:
        return f"was begun in {origin.dtype}, and this is {maker.dtype}: go on with --dtype {origin.dtype}"
    if not origin.shard:
        return f"does not say which shard it is of: {elsewhere}"
    if origin.shard_file == shard_state(shard):
        return None
    return None if origin.shard == shard_hash(shard) else f"has codes of another shard than {shard}: {elsewhere}"
