"""Ctrl-C, SIGTERM and SIGKILL in the middle of each kind of writing, by real processes.

Run as a script, this file writes what it is told to, slowly, and says when it has begun.
"""

import signal
import sys
import time
from pathlib import Path

import pytest

from seedtok.core.processes import (
    FORWARDED,
    Terminated,
    exit_code,
    stop_requests,
    terminate_like_interrupt,
    uninterrupted,
)
from stopping import started, stopped

KINDS = ("shards", "file", "files", "checkpoint")


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".mine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number"),
    [(kind, number) for kind in KINDS for number in (signal.SIGTERM, signal.SIGKILL)] + [("shards", signal.SIGINT)],
)
def test_nothing_is_lost_and_nothing_left(tmp_path, kind, number):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".mine").write_text("m")
    if kind != "shards":
        write(kind, tmp_path / "out", wait=0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with started(__file__, kind, tmp_path / "out") as process:
        assert hidden(tmp_path)
        assert stopped(process, number) == ""
    assert bool(hidden(tmp_path)) == (number == signal.SIGKILL)
    assert {path: path.read_bytes() for path in before} == before
    if number == signal.SIGKILL:
        with started(__file__, kind, tmp_path / "out") as process:  # the next run
            stopped(process, signal.SIGTERM)
        assert not hidden(tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# ---------------------------------------------------------------- the parts


def test_a_request_is_noted_once():
    with stop_requests("") as request:
        assert not request
        signal.raise_signal(signal.SIGTERM)
        assert request
        signal.raise_signal(signal.SIGTERM)  # that one again, by way of the launcher
        request.since -= FORWARDED
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert isinstance(request.error(), Terminated)
    assert exit_code(request.error()) == 143
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_belongs_together_is_not_interrupted():
    steps = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["after"]


def write(kind: str, out: Path, wait: float) -> None:
    """Writes one kind of thing, and waits before its end."""

    def begun(_: object = None) -> None:
        if wait:
            print("begun", flush=True)
            time.sleep(wait)

    if kind == "shards":
        from seedtok.mini.world.shards import write_scene_shards

        write_scene_shards(out, "test", 2, size=64, progress=begun)
    elif kind == "checkpoint":
        import torch

        from seedtok.training.checkpoints import save_checkpoint

        records = {"state": _Late(begun)} if wait else {"state": {"step": 1}}
        save_checkpoint(out, 1, {"stage": {"x": torch.ones(3)}}, records, 2)
    else:
        from seedtok.core.atomic import atomic_file
        from seedtok.core.checkpoint import checkpoint_folder

        with atomic_file(out / "a.txt") if kind == "file" else checkpoint_folder(out) as new:
            (new if kind == "file" else new / "config.json").write_text("old")
            begun()


class _Late(dict):
    """A record that takes its time to be written."""

    def __init__(self, begun) -> None:
        super().__init__(step=1)
        self.begun = begun

    def items(self):
        self.begun()
        return super().items()


if __name__ == "__main__":
    terminate_like_interrupt()
    try:
        write(sys.argv[1], Path(sys.argv[2]), 60)
    except KeyboardInterrupt as interrupt:
        sys.exit(exit_code(interrupt))
