"""What the program does when its output cannot be written: one line at most, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def shell(command: str) -> tuple[int, str]:
    """Runs a shell's command, where SEEDTOK is the program; gives its exit code and stderr."""
    program = command.replace("SEEDTOK", f"'{sys.executable}' -m seedtok")
    found = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    return found.returncode, found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "SEEDTOK --version <&- >&- 2>&-",
        "SEEDTOK train --list | true; exit $((PIPESTATUS[0] > 1))",
        "SEEDTOK --help >&-",
    ],
)
def test_output_that_nobody_reads_is_no_error(command: str):
    assert shell(command) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["--version", "--help"])
def test_a_full_disk_is_one_line(arguments: str):
    code, error = shell(f"SEEDTOK {arguments} > /dev/full")
    assert code in (1, 2)
    assert error == f"error: {os.strerror(28)}\n"
