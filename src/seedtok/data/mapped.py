"""Memory maps of Parquet files of codes, which are unpacked once.

Parquet is compressed: reading one row decompresses a whole page. The hidden folder `.mapped` beside the files has the
same rows uncompressed: codes in `NAME.npy`, and keys, captions and metadata in `NAME.arrow`. Both are written on first
use, and again when the Parquet files have changed or are copies; they can be deleted at any time. Where that folder
cannot be written, the user's cache, `~/.cache/seedtok/codes`, is used instead. Of processes that unpack the same files
at a time, the rows of the first one stay: on a network file system, what another machine has mapped must not be
replaced.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import write_array_header_1_0

from seedtok.core.atomic import atomic_file, to_disk
from seedtok.core.errors import DataError

ROWS = 16384  # in each record batch: row i is in batch i // ROWS
TEXTS = ("key", "caption", "metadata")
SCHEMA = pa.schema([(name, pa.string()) for name in TEXTS])


def parquet_metadata(path: Path) -> pq.FileMetaData:
    """The Parquet metadata of a file of codes; raises DataError where it is no file, or not in that format."""
    if not path.is_file():
        raise DataError(f"{path} is not a file of codes: {'no such' if not path.exists() else 'not a'} file")
    try:
        with pa.memory_map(arrow_path(path)) as file:
            return pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a file of codes: {str(error).splitlines()[0]}") from None


def arrow_path(path: Path) -> bytes:
    """A path for pyarrow to open: of a str, it takes no names but those in UTF-8, and a colon for that of a scheme."""
    return os.fsencode(path)


def mapped_rows(source: Path, paths: list[Path]) -> tuple[np.ndarray, pa.Table]:
    """The codes (N, n) uint16 of Parquet files, and the table of their keys, captions and metadata, memory-mapped.

    `source` is the folder of the files, or the one file. Raises DataError for a file that is broken or lacks a column,
    and where the unpacked rows cannot be written.
    """
    name = "all" if source.is_dir() else f"of-{_hash(source.name)}"
    full_name = f"{name}-{_fingerprint(paths)}"
    beside = (source if source.is_dir() else source.parent) / ".mapped"
    folders = [beside]
    with suppress(RuntimeError):  # a user without a home
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seedtok" / "codes"
        folders.append(cache / _hash(str(source.resolve())))
    for folder in folders:
        with suppress(OSError, EOFError, ValueError, pa.ArrowException):
            return _opened(folder / full_name)
    problem = None
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(_Overtaken):
                _unpack(paths, folder / full_name)
        except OSError as error:
            problem = error
            continue
        rows = _opened(folder / full_name)  # first: a process that sees other times would take these for stale
        for stale in folder.glob(f"{name}-*"):
            if stale.stem != full_name:
                with suppress(OSError):  # another process may be using it
                    stale.unlink()
        return rows
    assert problem is not None
    places = " or ".join(map(str, folders))
    raise DataError(f"cannot unpack the codes of {source} into {places}: {problem.strerror or problem}")


def _fingerprint(paths: list[Path]) -> str:
    """A hash that changes when one of the files changes, or is copied.

    The time of a file's last change (ctime), which an archive does not bring along, keeps unpacked rows that came in an
    archive from being taken for those of the Parquet files beside them.
    """
    found = [
        (path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path in paths
        for status in [path.stat()]
    ]
    return _hash(json.dumps([2, found]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _opened(path: Path) -> tuple[np.ndarray, pa.Table]:
    codes = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    with pa.ipc.open_file(pa.memory_map(arrow_path(path.with_suffix(".arrow")))) as reader:
        texts = reader.read_all()
    if codes.dtype != np.dtype("<u2") or codes.ndim != 2 or texts.schema != SCHEMA or len(codes) != len(texts):
        raise ValueError("not the unpacked rows of files of codes")
    return codes, texts


class _Overtaken(Exception):
    """Another process has unpacked the same files meanwhile."""


def _unpack(paths: list[Path], target: Path) -> None:
    """Writes the rows of Parquet files, unless another process has done so meanwhile: then raises _Overtaken."""
    with atomic_file(target.with_suffix(".npy")) as codes_path, atomic_file(target.with_suffix(".arrow")) as texts_path:
        _write(paths, codes_path, texts_path)
        to_disk(codes_path, texts_path)  # which takes long: now, so that no time passes after the next look
        with suppress(OSError, EOFError, ValueError, pa.ArrowException):
            _opened(target)
            raise _Overtaken


def _write(paths: list[Path], codes_path: Path, texts_path: Path) -> None:
    count = sum(_checked(path).num_rows for path in paths)
    if not count:
        raise DataError(f"{paths[0].parent}: its files of codes have no rows")
    with (
        codes_path.open("wb") as codes,
        pa.OSFile(arrow_path(texts_path), "wb") as file,
        pa.ipc.new_file(file, SCHEMA) as writer,
    ):
        width = first = None  # codes in a row, and the file that set it
        waiting = SCHEMA.empty_table()
        for path in paths:
            for matrix, texts in _batches(path):
                if width is None:
                    width, first = matrix.shape[1], path
                    header = {"descr": "<u2", "fortran_order": False, "shape": (count, width)}
                    write_array_header_1_0(codes, header)
                if matrix.shape[1] != width:
                    raise DataError(f"{path} has {matrix.shape[1]} codes in a row, and {first} has {width}")
                codes.write(matrix.astype("<u2").tobytes())
                waiting = pa.concat_tables([waiting, texts])
                while len(waiting) >= ROWS:
                    writer.write_table(waiting.slice(0, ROWS).combine_chunks(), max_chunksize=ROWS)
                    waiting = waiting.slice(ROWS)
        if len(waiting):
            writer.write_table(waiting.combine_chunks(), max_chunksize=ROWS)
    pa.default_memory_pool().release_unused()  # returns the memory that reading took to the system


def _checked(path: Path) -> pq.FileMetaData:
    """The Parquet metadata of a file of codes; raises DataError where it is not one or lacks a column."""
    metadata = parquet_metadata(path)
    try:
        schema = metadata.schema.to_arrow_schema()
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a file of codes: {str(error).splitlines()[0]}") from None
    for name in ("codes", *TEXTS):
        if len(schema.get_all_field_indices(name)) != 1:
            raise DataError(
                f"{path} is not a file of codes: no single column {name!r}; it has {', '.join(schema.names)}"
            )
        kind = schema.field(name).type
        if name == "codes":
            fits = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
            if not (fits and pa.types.is_integer(kind.value_type)):
                raise DataError(f"{path} is not a file of codes: {name!r} is {kind}, not lists of integers")
        elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"{path} is not a file of codes: {name!r} is {kind}, not text")
    return metadata


def _batches(path: Path) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """The rows of one file in batches: codes (B, n) and a table of texts."""
    try:
        with pa.memory_map(arrow_path(path)) as mapped, pq.ParquetFile(mapped) as file:
            for batch in file.iter_batches(ROWS // 4, columns=["codes", *TEXTS], use_threads=False):
                batch.validate(full=True)  # that texts are UTF-8
                texts = pa.table({name: batch.column(name).cast(pa.string()) for name in TEXTS})
                for name in TEXTS:
                    if texts[name].null_count:
                        raise DataError(f"{path}: a row has no {name}")
                yield _matrix(batch.column("codes"), path), texts
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a file of codes: {str(error).splitlines()[0]}") from None


def _matrix(column: pa.Array, path: Path) -> np.ndarray:
    values = column.flatten()
    if column.null_count or values.null_count:
        raise DataError(f"{path}: a row has no codes")
    lengths = set(np.unique(column.value_lengths().to_numpy()).tolist())
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(
            f"{path}: rows of {' and '.join(map(str, sorted(lengths)))} codes; expected equal lengths above 0"
        )
    matrix = values.to_numpy().reshape(len(column), -1)
    if matrix.min() < 0 or matrix.max() > np.iinfo(np.uint16).max:
        raise DataError(f"{path}: codes from {matrix.min()} to {matrix.max()}; expected 0 to 65535")
    return matrix
