"""Benchmarks run, of next to nothing: what they print of it says nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "printed"),
    [
        ("bulk.py", "--images 8 --rounds 1 --workers 1 --size 64", "encode_pixels alone"),
        ("full_counts.py", "--threads 1 --images 4 --captions 20 --questions 40", "yes/no"),
        ("stored_codes.py", "stored 2000 --ranks 1", "2,000 rows"),
        ("language.py", "--threads 1 --part drawing --rounds 1", "LoRA beside the weights"),
    ],
)
def test_it_runs(tmp_path, script, options, printed):
    command = [sys.executable, str(BENCHMARKS / script), *options.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout
