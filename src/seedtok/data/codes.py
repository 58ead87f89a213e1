"""Images stored as codes: one Parquet file for each shard, with the key, caption and 32 uint16 codes of each image."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import DataError
from seedtok.core.notices import warn
from seedtok.data.ahead import read_ahead
from seedtok.data.mapped import ROWS, arrow_path, mapped_rows
from seedtok.data.origins import Maker, Origin, Source, origin_of, plan_shards
from seedtok.data.samples import Sample
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits, write_skipped

GROUP = 4096  # rows in a row group of Parquet
T = TypeVar("T")
Keyed = tuple[str, Sample]  # with its key in the shard


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

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = range(len(self))[index]
        return self._parse(self._column.chunk(row // ROWS)[row % ROWS].as_py())

    def are_empty(self) -> np.ndarray:
        """Which rows are empty texts, (N,) bool; the texts themselves are not read."""
        lengths = [
            pc.call_function("binary_length", [chunk]).to_numpy(zero_copy_only=False)
            for chunk in self._column.iterchunks()
        ]
        return np.concatenate([np.zeros(0, np.int32), *lengths]) == 0

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

    `tokenizer` is the id of the codebook, `SeedTokenizer.codebook_id`, and `encoder` the fingerprint of what encoded
    them, `SeedTokenizer.encoder_fingerprint`; "" where no file says that. `source` is the folder or file they were read
    from.
    """

    keys: Column[str]
    captions: Column[str]
    codes: np.ndarray
    metadata: Column[dict[str, Any]]
    tokenizer: str
    encoder: str
    source: Path

    def __reduce__(self) -> tuple[Any, ...]:
        """What is pickled is the folder, so that another process maps the same files."""
        return read_codes, (self.source.absolute(), self.tokenizer, self.encoder or None)

    def __len__(self) -> int:
        return len(self.codes)


def tokenize_shards(
    source: Source,
    out: str | Path,
    encode: Callable[[list[Image.Image]], np.ndarray],
    tokenizer: str | Maker,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
    overwrite: bool = False,
    limits: SkipLimits | None = None,
) -> TokenizeReport:
    """Writes OUT/NAME.parquet with the codes of each shard NAME.tar.

    An existing file that was made from the same shard by the same tokenizer is kept. Samples that cannot be read are
    skipped, and listed in OUT/NAME.skipped.jsonl.

    Args:
        source: a folder of shards, one shard, or some; of a folder, files in `out` of no shard in it are warned of.
        encode: images -> codes (B, 32).
        tokenizer: what makes the codes, or the id of its codebook alone.
        progress: called with the number of images done.
        overwrite: replace files that were made from another shard or by another tokenizer.
        limits: how many samples may be skipped, and whether those without a caption are.

    Raises:
        DataError: a source without shards, or too many bad samples; without `overwrite`, and before anything is
            written, an existing file of another shard or tokenizer.
    """
    out, maker = Path(out), Maker(tokenizer) if isinstance(tokenizer, str) else tokenizer
    samples = ShardSamples(source, shuffle=False, limits=limits)
    written, kept, images = [], [], 0
    plan = plan_shards(source, samples.paths, out, maker, overwrite, samples.skipped.limits.needs_caption)
    for number, (path, target, count) in enumerate(plan):
        if count is not None:
            samples.skipped.add_listed(path, target)
            kept.append(target)
            images += count
        else:
            advance = partial(_add_progress, progress, images)
            if count := _tokenize(samples, number, target, encode, maker, batch_size, advance):
                written.append(target)
                images += count
        if progress:
            progress(images)
    return TokenizeReport(tuple(written), tuple(kept), images, tuple(samples.skipped.reasons))


def _add_progress(progress: Callable[[int], object] | None, before: int, done: int) -> None:
    if progress:
        progress(before + done)


def _tokenize(
    samples: ShardSamples, number: int, target: Path, encode: Callable[[list[Image.Image]], np.ndarray],
    maker: Maker, batch_size: int, progress: Callable[[int], object],
) -> int:  # fmt: skip
    """Writes the codes of one shard, unless it has no images; returns the number of rows."""
    path = samples.paths[number]
    origin = maker.metadata(path)
    tables = _tables(samples.of_shard(number, maker.square, maker.threads), encode, batch_size, progress)
    first, rows = next(tables, None), 0
    if first is None:
        leave_without_codes(path, target, samples.skipped.reasons)
        return 0
    try:
        schema = first.schema.with_metadata(origin)
        with (
            atomic_file(target) as temporary,
            pa.OSFile(arrow_path(temporary), "wb") as file,
            pq.ParquetWriter(file, schema) as writer,
        ):
            for table in chain([first], tables):
                writer.write_table(table.cast(schema))
                rows += len(table)
            write_skipped(samples.skipped.reasons, path, target)  # first: the codes say that all is done
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from None
    return rows


def leave_without_codes(shard: Path, target: Path, reasons: Iterable[tuple[str, str, str]]) -> None:
    """Removes the file of codes of a shard of which nothing can be read, and lists why, as `write_skipped` does."""
    try:
        target.unlink(missing_ok=True)  # it has the codes of another shard
        write_skipped(reasons, shard, target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from None


def _tables(
    stream: Iterator[Keyed], encode: Callable[[list[Image.Image]], np.ndarray], batch_size: int,
    progress: Callable[[int], object],
) -> Iterator[pa.Table]:  # fmt: skip
    """Tables of about `GROUP` rows, each of which becomes a row group."""
    done, batches = 0, read_ahead(stream, batch_size)
    while True:
        codes: list[np.ndarray] = []
        rows: list[tuple[str, str, str]] = []
        while len(rows) < GROUP and (batch := next(batches, None)):
            found = np.asarray(encode([sample.image for _, sample in batch]))
            if found.max(initial=0) > 65535:
                raise DataError(f"a code is {found.max()}: codes are stored in 16 bits, up to 65535")
            codes.append(found.astype(np.uint16))
            rows += [(_text(key), _text(s.caption), json.dumps(s.metadata)) for key, s in batch]
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
    """The Parquet files in a folder and its sub-folders, sorted, without hidden ones; or the one given file.

    Sub-folders that are symbolic links are left out.
    """
    if not source.is_dir():
        return [source]
    found = source.rglob("*.parquet")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(source).parts))


def read_codes(source: str | Path, tokenizer: str | None = None, encoder: str | None = None) -> Codes:
    """The codes of all Parquet files in a folder and its sub-folders, or of one file, as memory maps.

    The first call unpacks the files (see `mapped_rows`). `tokenizer` is the id of the codebook that is expected, and
    `encoder` the fingerprint of what encodes; files that do not name theirs may be of any. A SeedTokWarning names
    sub-folders that are symbolic links, which are left out. Raises DataError where there are no files, one is broken,
    or their codes are of another tokenizer or encoder, or of several.
    """
    source = Path(source)
    paths = code_files(source)
    _warn_of_links(source)
    if not paths:
        raise DataError(f"no codes in {source}: expected .parquet files, as `seedtok tokenize` writes them")
    origins = [origin_of(path) for path in paths]
    made_by = {origin.codebook for origin in origins}
    if tokenizer is not None and made_by != {tokenizer}:
        path = next(path for path, origin in zip(paths, origins, strict=True) if origin.codebook != tokenizer)
        raise DataError(f"{path} has codes of another tokenizer; encode the images with this one: seedtok tokenize")
    encoders = {origin.encoder for origin in origins} - {""}
    if encoder is not None and not encoders <= {encoder}:
        path = next(path for path, origin in zip(paths, origins, strict=True) if origin.encoder not in ("", encoder))
        raise DataError(
            f"{path} has codes of another encoder, with the same codebook; encode the images with this one: "
            "seedtok tokenize"
        )
    if len(made_by) > 1 or len(encoders) > 1:
        raise DataError(f"{source} has codes of several tokenizers: keep those of each tokenizer in a separate folder")
    _warn_of_dtypes(source, origins)
    codes, table = mapped_rows(source, paths)
    keys, captions = (Column(table[name], str) for name in ("key", "caption"))
    metadata = Column(table["metadata"], partial(_record, source))
    return Codes(keys, captions, codes, metadata, made_by.pop(), next(iter(encoders), ""), source)


def _warn_of_dtypes(source: Path, origins: Sequence[Origin]) -> None:
    """Warns of codes that were computed in several dtypes, between which some differ."""
    rows = Counter[str]()
    for origin in origins:
        rows[origin.dtype] += origin.rows
    del rows[""]
    if len(rows) > 1:
        found = ", ".join(f"{count:,} rows in {dtype}" for dtype, count in sorted(rows.items()))
        warn(f"{source}: {found}; up to 4 % of the codes of an image differ between dtypes: encode a data set in one")


def _warn_of_links(source: Path) -> None:
    for folder, inside, _ in os.walk(source):
        inside[:] = [name for name in inside if not name.startswith(".")]
        for name in inside:
            if (path := Path(folder) / name).is_symlink():
                warn(f"{path} is a link to a folder, and is left out")
