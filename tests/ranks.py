"""Several ranks of a process group on this machine: a script that, its imports done, goes on as so many processes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def run_ranks(script: str, world: int, errors: Path, *arguments: object, timeout: float = 600) -> None:
    """Runs a script that calls `fork_ranks`, and asserts that all ranks succeed; their stderr goes to a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }  # fmt: skip
    with errors.open("w") as file:
        command = [sys.executable, script, *map(str, arguments)]
        process = subprocess.Popen(command, env=environment, stderr=file, start_new_session=True)
    try:
        code = process.wait(timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert code == 0, errors.read_text()[-6000:]


def fork_ranks() -> None:
    """Returns in WORLD_SIZE new processes, each with its RANK; this one waits for them and exits.

    As soon as one fails, the others, which would wait for it, are killed.
    """
    children: set[int] = set()
    for rank in range(int(os.environ["WORLD_SIZE"])):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return
        children.add(child)
    failed = False
    while children:
        child, status = os.wait()
        children.remove(child)
        if status != 0 and not failed:
            failed = True
            for other in children:
                os.kill(other, signal.SIGKILL)
    sys.exit(int(failed))
