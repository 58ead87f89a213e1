"""How much private memory training on stored codes takes.

Writes ROWS (5,000,000) rows into FOLDER as `seedtok tokenize` would, 10,000 a file. Run again, it goes through shuffled
batches of them, and prints the memory that no other process can share (RssAnon) beyond that of the imports. With
--ranks it does both, with that many processes at a time, and adds up their memory.

    python benchmarks/stored_codes.py FOLDER [ROWS] [--ranks 4] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch  # noqa: F401  its memory is not that of the codes
from measuring import Row, report

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


def use(folder: Path) -> tuple[float, float]:
    """Goes through shuffled batches; returns rows a second, and the most memory beyond imports, in MiB."""
    before, start = private(), time.perf_counter()
    batches = code_batches(folder, BATCH)
    next(batches)
    print(f"first batch after {time.perf_counter() - start:.1f} s: {private() - before:.0f} MiB beyond imports")
    start, most = time.perf_counter(), 0.0
    for _ in islice(batches, BATCHES):
        most = max(most, private() - before)
    speed = BATCH * BATCHES / (time.perf_counter() - start)
    print(f"{BATCHES} shuffled batches of {BATCH}: {speed:,.0f} rows/s, at most {most:.0f} MiB beyond imports")
    return speed, most


def together(folder: Path, rows: int, ranks: int) -> Row:
    """The memory of several processes at a time, in GiB."""
    next(code_batches(folder, BATCH))  # unpacks the files, once for all
    command = [sys.executable, __file__, str(folder), str(rows), "--bare"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(ranks)]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    note = f"GiB of {ranks} processes together, beyond imports; the slowest reads {min(found)[0]:,.0f} rows a second"
    return Row(
        f"{rows:,} rows of stored codes", ratio=sum(f[1] for f in found) / 1024, bar=1.5, at_most=True, note=note
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int, nargs="?", default=5_000_000)
    parser.add_argument("--ranks", type=int, help="writes, and measures as many processes together")
    parser.add_argument("--json", type=Path, help="also writes the row to this file")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not list(args.folder.glob("*.parquet")):
        write(args.folder, args.rows)
        if not args.ranks:
            print("written; run it again to measure in a process that did not write")
            return
    if args.ranks:
        report("stored codes", [together(args.folder, args.rows, args.ranks)], args.json)
        return
    measured = use(args.folder)
    if args.bare:
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
