"""Pictures as their codes, tokenised once: a Parquet file a shard, with each picture's key, caption and 32 uint16."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.core.writing import whole_file
from seedtok.data.mapped import ROWS, mapped_rows
from seedtok.data.samples import Sample
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits

MADE_BY = b"seedtok.tokenizer"  # in a file's metadata: which codebook its codes are of
MADE_OF = b"seedtok.shard"  # and the SHA-256 of the shard whose pictures they are
GROUP = 4096  # rows of a row group
T = TypeVar("T")


@dataclass(frozen=True)
class TokenizeReport:
    written: tuple[Path, ...]
    kept: tuple[Path, ...]  # finished before
    images: int
    skipped: tuple[tuple[str, str, str], ...] = ()  # shard, key ("" for several at its end) and reason


class Column(Generic[T]):
    """A column of text, of which a row is read when it is asked for, and parsed."""

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
    """`codes` (N, n) uint16; beside them keys, captions, and what else a shard knew of each picture.

    All are memory maps: a row is read when it is asked for. `tokenizer` is the codebook they are of, as
    `SeedTokenizer.codebook_id` has it.
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
    """Writes OUT/NAME.parquet for every NAME.tar of a folder of shards (or one such file).

    `encode` gives the codes (B, 32) of pictures; `tokenizer` tells one codebook from another. A file that is there, and
    was made of the same shard, byte for byte, with the same tokenizer, is finished and stays; with `overwrite`, one of
    another shard or tokenizer is made again. Samples that cannot be read are left out, up to `limits`, and
    listed in OUT/NAME.skipped.jsonl. Raises DataError for what is no shard, where more are bad, and without `overwrite`
    for a finished file of another shard or tokenizer, before anything is written.
    """
    out = Path(out)
    samples = ShardSamples(source, shuffle=False, limits=limits)
    targets = [out / f"{path.stem}.parquet" for path in samples.paths]
    if len(set(targets)) < len(targets):
        raise DataError("two shards of one name: their codes would be one file")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror or error}") from None
    finished = [
        target.exists() and _is_finished(target, path, tokenizer, overwrite)
        for path, target in zip(samples.paths, targets, strict=True)
    ]
    written, kept, images = [], [], 0
    for number, target in enumerate(targets):
        if finished[number]:
            kept.append(target)
            images += pq.read_metadata(target).num_rows
        else:
            counted = partial(_counted, progress, images)
            if count := _tokenize(samples, number, target, encode, tokenizer, batch_size, counted):
                written.append(target)
                images += count
        if progress:
            progress(images)
    return TokenizeReport(tuple(written), tuple(kept), images, tuple(samples.skipped.reasons))


def _counted(progress: Callable[[int], object] | None, before: int, done: int) -> None:
    if progress:
        progress(before + done)


def _is_finished(target: Path, shard: Path, tokenizer: str, overwrite: bool) -> bool:
    origin = _origin(target)
    if not origin.tokenizer:
        raise DataError(f"{target} is in the way: it does not say which tokenizer its codes are of")
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
    """The SHA-256 of a shard's bytes: about as fast as a disk reads them, and no two shards have the same."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None


def _tokenize(
    samples: ShardSamples, number: int, target: Path, encode: Callable[[list[Image.Image]], np.ndarray],
    tokenizer: str, batch_size: int, progress: Callable[[int], object],
) -> int:  # fmt: skip
    """Writes the codes of one shard; returns how many rows, and writes no file where there are none."""
    path = samples.paths[number]
    origin = {MADE_BY: tokenizer.encode(), MADE_OF: _shard_hash(path).encode()}
    tables = _tables(samples.of_shard(number), encode, batch_size, progress)
    first, rows = next(tables, None), 0
    try:
        if first is None:
            target.unlink(missing_ok=True)  # of another shard
        else:
            schema = first.schema.with_metadata(origin)
            with whole_file(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                for table in chain([first], tables):
                    writer.write_table(table.cast(schema))
                    rows += len(table)
        _write_skipped(samples, path, target.with_suffix(".skipped.jsonl"))
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from None
    return rows


def _tables(
    stream: Iterator[Sample], encode: Callable[[list[Image.Image]], np.ndarray], batch_size: int,
    progress: Callable[[int], object],
) -> Iterator[pa.Table]:  # fmt: skip
    """Some thousand rows at a time, which become a row group each."""
    done = 0
    while True:
        codes: list[np.ndarray] = []
        rows: list[tuple[str, str, str]] = []
        while len(rows) < GROUP and (batch := list(islice(stream, batch_size))):
            codes.append(np.asarray(encode([sample.image for sample in batch])).astype(np.uint16))
            rows += [(_text(s.metadata["key"]), _text(s.caption), json.dumps(s.metadata)) for s in batch]
            progress(done + len(rows))
        if not rows:
            return
        done += len(rows)
        stacked = np.concatenate(codes)
        keys, captions, known = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(stacked.ravel()), stacked.shape[1])
        yield pa.table({"key": keys, "caption": captions, "codes": lists, "metadata": known})


def _text(value: object) -> str:
    """A value as text that UTF-8 can hold: half a surrogate pair, which JSON and names in a tar may have, cannot be."""
    return str(value).encode(errors="replace").decode()


def _write_skipped(samples: ShardSamples, shard: Path, target: Path) -> None:
    """The list of a shard's samples that were left out; none where none were."""
    lines = [
        json.dumps({"shard": path, "key": key, "reason": reason}) + "\n"
        for path, key, reason in samples.skipped.reasons
        if path == str(shard)
    ]
    if not lines:
        target.unlink(missing_ok=True)
        return
    with whole_file(target) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def code_files(source: Path) -> list[Path]:
    """The Parquet files in and below a folder, sorted, hidden folders left out; or the one file that is given."""
    if not source.is_dir():
        return [source]
    found = source.rglob("*.parquet")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(source).parts))


def read_codes(source: str | Path, tokenizer: str | None = None) -> Codes:
    """All codes of a folder of Parquet files and of those below it, or of one file, by memory map.

    The first call unpacks the files (see `mapped_rows`), which later calls find done. Raises DataError when there are
    none, a file is broken, or one is of another tokenizer than asked for, or than the others.
    """
    source = Path(source)
    paths = code_files(source)
    if not paths:
        raise DataError(f"no codes in {source}: expected .parquet files, as `seedtok tokenize` writes them")
    made_by = {_origin(path).tokenizer for path in paths}
    if tokenizer is not None and made_by != {tokenizer}:
        path = next(path for path in paths if _origin(path).tokenizer != tokenizer)
        raise DataError(f"{path} has codes of another tokenizer; make them again with this one: seedtok tokenize")
    if len(made_by) > 1:
        raise DataError(f"{source} has codes of several tokenizers: keep those of each in a folder of their own")
    codes, table = mapped_rows(source, paths)
    keys, captions = (Column(table[name], str) for name in ("key", "caption"))
    return Codes(keys, captions, codes, Column(table["metadata"], partial(_record, source)), made_by.pop())


@dataclass(frozen=True)
class _Origin:
    """What a file of codes was made with, and of: empty where it does not say."""

    tokenizer: str
    shard: str


def _origin(path: Path) -> _Origin:
    if not path.is_file():
        raise DataError(f"{path} is not a file of codes: {'no such file' if not path.exists() else 'not a file'}")
    try:
        known = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a file of codes: {str(error).splitlines()[0]}") from None
    return _Origin(*(known.get(key, b"").decode(errors="replace") for key in (MADE_BY, MADE_OF)))
