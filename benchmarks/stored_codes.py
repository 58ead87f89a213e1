"""How much private memory training on stored codes takes: python benchmarks/stored_codes.py FOLDER [ROWS]

Writes ROWS (5,000,000) rows into FOLDER as `seedtok tokenize` would, 10,000 a file. Run again, it goes through shuffled
batches of them, and prints the memory that no other process can share (RssAnon) beyond that of the imports.
"""

import json
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch  # noqa: F401  its memory is not that of the codes

from seedtok.data.code_batches import code_batches

PER_FILE, BATCH, BATCHES = 10_000, 256, 400


def write(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words = np.array(["a", "man", "and", "dog", "in", "the", "street", "near", "two", "old", "red", "buses"])
    for number in range(-(-rows // PER_FILE)):
        path = folder / f"{number:05}.parquet"
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        codes = pa.array(rng.integers(0, 8192, PER_FILE * 32, dtype=np.uint16))
        captions = [" ".join(line) for line in rng.choice(words, (PER_FILE, 10))]
        keys = [f"{number:05}{i:04}" for i in range(PER_FILE)]
        known = [
            json.dumps({"key": k, "caption": c, "url": f"https://example.org/{k}.jpg", "width": 640, "height": 480})
            for k, c in zip(keys, captions, strict=True)
        ]
        table = pa.table(
            {"key": keys, "caption": captions, "codes": pa.FixedSizeListArray.from_arrays(codes, 32), "metadata": known}
        )
        pq.write_table(table.replace_schema_metadata({b"seedtok.tokenizer": b"benchmark"}), path, row_group_size=4096)


def private() -> float:
    """MiB of memory that belongs to this process alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def main() -> None:
    folder, rows = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5_000_000
    if not list(folder.glob("*.parquet")):
        write(folder, rows)
        print("written; run it again to measure in a process that did not write")
        return
    before, start = private(), time.perf_counter()
    batches = code_batches(folder, BATCH)
    next(batches)
    print(f"first batch after {time.perf_counter() - start:.1f} s: {private() - before:.0f} MiB beyond imports")
    start, most = time.perf_counter(), 0.0
    for _ in islice(batches, BATCHES):
        most = max(most, private() - before)
    speed = BATCH * BATCHES / (time.perf_counter() - start)
    print(f"{BATCHES} shuffled batches of {BATCH}: {speed:,.0f} rows/s, at most {most:.0f} MiB beyond imports")


if __name__ == "__main__":
    main()
