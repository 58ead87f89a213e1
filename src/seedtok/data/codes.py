"""Pictures as their codes, tokenised once: a Parquet file a shard, with each picture's key, caption and 32 uint16."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from seedtok.data.shards import ShardSamples
from seedtok.errors import DataError
from seedtok.writing import whole_file

MADE_BY = b"seedtok.tokenizer"  # in a file's metadata: which codebook its codes are of


@dataclass(frozen=True)
class TokenizeReport:
    written: tuple[Path, ...]
    kept: tuple[Path, ...]  # finished before
    images: int


@dataclass(frozen=True)
class Codes:
    """`codes` (N, 32) uint16; beside them keys, captions, and what else a shard knew of each picture.

    `tokenizer` is the codebook they are of, as `SeedTokenizer.codebook_id` has it.
    """

    keys: list[str]
    captions: list[str]
    codes: np.ndarray
    metadata: list[dict[str, Any]]
    tokenizer: str

    def __len__(self) -> int:
        return len(self.keys)


def tokenize_shards(
    source: str | Path,
    out: str | Path,
    encode: Callable[[list[Image.Image]], np.ndarray],
    tokenizer: str,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
) -> TokenizeReport:
    """Writes OUT/NAME.parquet for every NAME.tar of a folder of shards (or one such file).

    `encode` gives the codes (B, 32) of pictures; `tokenizer` tells one codebook from another. A file that is there is
    finished, and stays. Raises DataError for what is no shard, and for a finished file of another tokenizer.
    """
    out = Path(out)
    paths = ShardSamples(source, shuffle=False).paths
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise DataError("two shards of one name: their codes would be one file")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror or error}") from None
    written, kept, images = [], [], 0
    for path in paths:
        target = out / f"{path.stem}.parquet"
        if target.exists():
            _check_tokenizer(target, tokenizer)
            kept.append(target)
            images += pq.read_metadata(target).num_rows
        else:
            images = _tokenize(path, target, encode, tokenizer, batch_size, progress, images)
            written.append(target)
        if progress:
            progress(images)
    return TokenizeReport(tuple(written), tuple(kept), images)


def _tokenize(
    path: Path,
    target: Path,
    encode: Callable[[list[Image.Image]], np.ndarray],
    tokenizer: str,
    batch_size: int,
    progress: Callable[[int], object] | None,
    before: int,
) -> int:
    """One shard; returns how many images are done, those `before` it included."""
    samples = ShardSamples(path, shuffle=False)
    rows: list[tuple[str, str, str]] = []
    codes: list[np.ndarray] = []
    stream = islice(samples, samples.epoch_size)
    while batch := list(islice(stream, batch_size)):
        codes.append(np.asarray(encode([sample.image for sample in batch])).astype(np.uint16))
        rows += [(str(s.metadata["key"]), s.caption, json.dumps(s.metadata)) for s in batch]
        if progress:
            progress(before + len(rows))
    stacked = np.concatenate(codes)
    keys, captions, known = zip(*rows, strict=True)
    table = pa.table(
        {
            "key": list(keys),
            "caption": list(captions),
            "codes": pa.FixedSizeListArray.from_arrays(pa.array(stacked.ravel()), stacked.shape[1]),
            "metadata": list(known),
        }
    ).replace_schema_metadata({MADE_BY: tokenizer.encode()})
    try:
        with whole_file(target) as temporary:
            pq.write_table(table, temporary)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from None
    return before + len(rows)


def read_codes(source: str | Path, tokenizer: str | None = None) -> Codes:
    """All codes of a folder of Parquet files, or of one.

    Raises DataError when there are none, a file is broken, or one is of another tokenizer than asked for, or than the
    others.
    """
    parts = list(_tables(Path(source), tokenizer))
    made_by = (parts[0].schema.metadata or {}).get(MADE_BY, b"")
    if any((part.schema.metadata or {}).get(MADE_BY, b"") != made_by for part in parts):
        raise DataError(f"{source} has codes of several tokenizers: keep those of each in a folder of their own")
    return Codes(
        [key for part in parts for key in part["key"].to_pylist()],
        [caption for part in parts for caption in part["caption"].to_pylist()],
        np.concatenate([_matrix(part) for part in parts]),
        [json.loads(known) for part in parts for known in part["metadata"].to_pylist()],
        made_by.decode(),
    )


def _tables(source: Path, tokenizer: str | None) -> Iterator[pa.Table]:
    paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not paths:
        raise DataError(f"no codes in {source}: expected .parquet files, as `seedtok tokenize` writes them")
    for path in paths:
        if tokenizer is not None:
            _check_tokenizer(path, tokenizer)
        try:
            yield pq.read_table(path, columns=["key", "caption", "codes", "metadata"])
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(f"{path} is not a file of codes: {str(error).splitlines()[0]}") from None


def _matrix(table: pa.Table) -> np.ndarray:
    column = table["codes"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def _check_tokenizer(path: Path, tokenizer: str) -> None:
    try:
        made_by = (pq.read_schema(path).metadata or {}).get(MADE_BY, b"").decode()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a file of codes: {str(error).splitlines()[0]}") from None
    if made_by != tokenizer:
        raise DataError(f"{path} has codes of another tokenizer; write to another folder, or delete it")
