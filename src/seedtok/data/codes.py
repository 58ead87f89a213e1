"""Images stored as codes: one Parquet file for each shard, with the key, caption and 32 uint16 codes of each image."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import DataError
from seedtok.data.ahead import read_ahead
from seedtok.data.mapped import ROWS, mapped_rows
from seedtok.data.samples import Sample
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits, write_skipped

MADE_BY = b"seedtok.tokenizer"  # key in the metadata of a file: the id of the codebook
MADE_OF = b"seedtok.shard"  # and the SHA-256 hash of the shard
GROUP = 4096  # rows in a row group of Parquet
T = TypeVar("T")


@dataclass(frozen=True)
class TokenizeReport:
    """The files that `tokenize_shards` wrote, those it found complete, the number of images, and what was skipped.

    `skipped` has the shard, the key ("" for all samples that are missing at its end) and the reason. `far` is the
    number of images far from those of training, where the engine counts them.
    """

    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    images: int
    skipped: tuple[tuple[str, str, str], ...] = ()
    far: int = 0


class Column(Generic[T]):
    """A memory-mapped column of text; rows are read and parsed on access."""

    def __init__(self, column: pa.ChunkedArray, parse: Callable[[str], T]) -> None:
        self._column, self._parse = column, parse

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: int) -> T:
        row = range(len(self))[index]
        return self._parse(self._column.chunk(row // ROWS)[row % ROWS].as_py())

    def __iter__(self) -> Iterator[T]:
        for chunk in self._column.iterchunks():
            yield from map(self._parse, chunk.to_pylist())


def _record(source: Path, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DataError(f"{source}: metadata {text[:40]!r} is not a JSON object")
    return record


@dataclass(frozen=True)
class Codes:
    """The codes (N, n) uint16 of N images, with their keys, captions and metadata, all memory-mapped.

    `tokenizer` is the id of the codebook, `SeedTokenizer.codebook_id`.
    """

    keys: Column[str]
    captions: Column[str]
    codes: np.ndarray
    metadata: Column[dict[str, Any]]
    tokenizer: str

    def __len__(self) -> int:
        return len(self.codes)


def tokenize_shards(
    source: str | Path,
    out: str | Path,
    encode: Callable[[list[Image.Image]], np.ndarray],
    tokenizer: str,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
    overwrite: bool = False,
    limits: SkipLimits | None = None,
) -> TokenizeReport:
    """Writes OUT/NAME.parquet with the codes of each shard NAME.tar.

    An existing file that was made from the same shard with the same codebook is kept. Samples that cannot be read are
    skipped, and listed in OUT/NAME.skipped.jsonl.

    Args:
        source: a folder of shards, or one shard.
        encode: images -> codes (B, 32).
        tokenizer: the id of the codebook.
        progress: called with the number of images done.
        overwrite: replace files that were made from another shard or with another codebook.
        limits: how many samples may be skipped.

    Raises:
        DataError: a source without shards, or too many bad samples; without `overwrite`, and before anything is
            written, an existing file of another shard or codebook.
    """
    out = Path(out)
    samples = ShardSamples(source, shuffle=False, limits=limits)
    written, kept, images = [], [], 0
    for number, (path, target, count) in enumerate(plan_shards(samples.paths, out, tokenizer, overwrite)):
        if count is not None:
            samples.skipped.add_listed(path, target)
            kept.append(target)
            images += count
        else:
            advance = partial(_add_progress, progress, images)
            if count := _tokenize(samples, number, target, encode, tokenizer, batch_size, advance):
                written.append(target)
                images += count
        if progress:
            progress(images)
    return TokenizeReport(tuple(written), tuple(kept), images, tuple(samples.skipped.reasons))


def plan_shards(
    paths: Sequence[Path], out: Path, tokenizer: str, overwrite: bool
) -> list[tuple[Path, Path, int | None]]:
    """Each shard, the file of its codes in `out`, and that file's rows where it is complete; creates `out`.

    Raises DataError as `tokenize_shards` does, before it writes anything.
    """
    targets = [out / f"{path.stem}.parquet" for path in paths]
    if len(set(targets)) < len(targets):
        raise DataError("two shards have the same name, so their codes would be written to the same file: rename one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror or error}") from None
    return [
        (path, target, pq.read_metadata(target).num_rows if _is_finished(target, path, tokenizer, overwrite) else None)
        for path, target in zip(paths, targets, strict=True)
    ]


def _add_progress(progress: Callable[[int], object] | None, before: int, done: int) -> None:
    if progress:
        progress(before + done)


def _is_finished(target: Path, shard: Path, tokenizer: str, overwrite: bool) -> bool:
    if not target.exists():
        return False
    try:
        origin = _origin(target)
    except DataError as error:
        if overwrite and target.is_file():
            return False
        raise DataError(f"{error}; remove it, or replace it with --overwrite") from None
    if not origin.tokenizer:
        raise DataError(f"{target} exists and does not say which tokenizer its codes are of: choose another folder")
    if origin == _Origin(tokenizer, _shard_hash(shard)):
        return True
    if overwrite:
        return False
    if origin.tokenizer != tokenizer:
        what = "has codes of another tokenizer"
    else:
        what = f"has codes of another shard than {shard}" if origin.shard else "does not say which shard it is of"
    raise DataError(f"{target} {what}: write to another folder, or replace it with --overwrite")


def _shard_hash(path: Path) -> str:
    """The SHA-256 hash of a shard, computed about as fast as a disk reads."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None


def _tokenize(
    samples: ShardSamples, number: int, target: Path, encode: Callable[[list[Image.Image]], np.ndarray],
    tokenizer: str, batch_size: int, progress: Callable[[int], object],
) -> int:  # fmt: skip
    """Writes the codes of one shard, unless it has no images; returns the number of rows."""
    path = samples.paths[number]
    origin = {MADE_BY: tokenizer.encode(), MADE_OF: _shard_hash(path).encode()}
    tables = _tables(samples.of_shard(number), encode, batch_size, progress)
    first, rows = next(tables, None), 0
    try:
        if first is None:
            target.unlink(missing_ok=True)  # it has the codes of another shard
            write_skipped(samples.skipped.reasons, path, target)
        else:
            schema = first.schema.with_metadata(origin)
            with atomic_file(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                for table in chain([first], tables):
                    writer.write_table(table.cast(schema))
                    rows += len(table)
                write_skipped(samples.skipped.reasons, path, target)  # first: the codes say that all is done
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from None
    return rows


def _tables(
    stream: Iterator[Sample], encode: Callable[[list[Image.Image]], np.ndarray], batch_size: int,
    progress: Callable[[int], object],
) -> Iterator[pa.Table]:  # fmt: skip
    """Tables of about `GROUP` rows, each of which becomes a row group."""
    done, batches = 0, read_ahead(stream, batch_size)
    while True:
        codes: list[np.ndarray] = []
        rows: list[tuple[str, str, str]] = []
        while len(rows) < GROUP and (batch := next(batches, None)):
            found = np.asarray(encode([sample.image for sample in batch]))
            if found.max(initial=0) > 65535:
                raise DataError(f"a code is {found.max()}: codes are stored in 16 bits, up to 65535")
            codes.append(found.astype(np.uint16))
            rows += [(_text(s.metadata["key"]), _text(s.caption), json.dumps(s.metadata)) for s in batch]
            progress(done + len(rows))
        if not rows:
            return
        done += len(rows)
        stacked = np.concatenate(codes)
        keys, captions, metadata = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(stacked.ravel()), stacked.shape[1])
        yield pa.table({"key": keys, "caption": captions, "codes": lists, "metadata": metadata})


def _text(value: object) -> str:
    """A value as text that can be encoded as UTF-8: lone surrogates, from JSON or file names, become "?"."""
    return str(value).encode(errors="replace").decode()


def code_files(source: Path) -> list[Path]:
    """The Parquet files in a folder and its sub-folders, sorted, without hidden ones; or the one given file."""
    if not source.is_dir():
        return [source]
    found = source.rglob("*.parquet")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(source).parts))


def read_codes(source: str | Path, tokenizer: str | None = None) -> Codes:
    """The codes of all Parquet files in a folder and its sub-folders, or of one file, as memory maps.

    The first call unpacks the files (see `mapped_rows`). `tokenizer` is the id of the codebook that is expected. Raises
    DataError where there are no files, one is broken, or their codes are of another codebook or of several.
    """
    source = Path(source)
    paths = code_files(source)
    if not paths:
        raise DataError(f"no codes in {source}: expected .parquet files, as `seedtok tokenize` writes them")
    made_by = {_origin(path).tokenizer for path in paths}
    if tokenizer is not None and made_by != {tokenizer}:
        path = next(path for path in paths if _origin(path).tokenizer != tokenizer)
        raise DataError(f"{path} has codes of another tokenizer; encode the images with this one: seedtok tokenize")
    if len(made_by) > 1:
        raise DataError(f"{source} has codes of several tokenizers: keep those of each tokenizer in a separate folder")
    codes, table = mapped_rows(source, paths)
    keys, captions = (Column(table[name], str) for name in ("key", "caption"))
    return Codes(keys, captions, codes, Column(table["metadata"], partial(_record, source)), made_by.pop())


@dataclass(frozen=True)
class _Origin:
    """The codebook and the shard that a file of codes was made with; empty where the file does not say."""

    tokenizer: str
    shard: str


def _origin(path: Path) -> _Origin:
    if not path.is_file():
        raise DataError(f"{path} is not a file of codes: {'no such file' if not path.exists() else 'not a file'}")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a file of codes: {str(error).splitlines()[0]}") from None
    return _Origin(*(metadata.get(key, b"").decode(errors="replace") for key in (MADE_BY, MADE_OF)))
