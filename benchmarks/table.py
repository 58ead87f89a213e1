"""All speeds that have a bar, as one table, and the same as JSON: each benchmark in a process of its own.

What this machine lacks says so: an opponent that is not installed (extra `bench`), or a part that ended for want of
memory. The full size takes 10 GiB of memory, and is left out by --small.

    python benchmarks/table.py [--small] [--threads 1] [--json bench.json] [--rows 5000000]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import Row, report

HERE = Path(__file__).parent


def measured(script: str, *options: str) -> list[Row]:
    """The rows of one benchmark; a single one with the reason where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / script), *options, "--json", str(file)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if not file.is_file():
            reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return [Row(" ".join((script, *options)), note=f"ended with {done.returncode}: {reason}")]
        return [Row(**{k: v for k, v in row.items() if k != "verdict"}) for row in json.loads(file.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="without the full size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=5_000_000, help="of stored codes")
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    args = parser.parse_args()
    threads = ("--threads", str(args.threads))
    runs = [("encode.py", *threads), ("language.py", *threads, "--part", "drawing"), ("bulk.py", *threads)]
    if not args.small:
        runs.insert(1, ("encode.py", *threads, "--full", "--batch", "4", "--rounds", "3"))
    rows = [row for script, *options in runs for row in measured(script, *options)]
    with tempfile.TemporaryDirectory() as folder:
        rows += measured("stored_codes.py", folder, str(args.rows), "--ranks", "4")
    report(f"{args.threads} threads, CPU time", rows, args.json)


if __name__ == "__main__":
    main()
