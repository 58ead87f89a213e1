"""A test's own file run as another process, which gets stopped in the middle."""

import os
import signal
import subprocess
import sys

CODES = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}


def started(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A script that has begun, as it says by a line on stdout."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if line.strip() == "begun":
            return process
    raise AssertionError(process.communicate()[1])


def stopped(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Its stderr, once it has ended by a signal with the right exit code."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == CODES[number], errors
    return errors
