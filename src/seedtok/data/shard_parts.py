"""Parts of a folder of shards, for jobs that run side by side, such as those of an array of a cluster's scheduler."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seedtok.core.errors import BusyError, ConfigError
from seedtok.core.locks import holder_of, locked
from seedtok.data.tars import shard_paths


@dataclass(frozen=True)
class ShardPart:
    """Part `number` (1 to `count`) of `count` parts: every `count`-th of the shards by name. No shard is in two."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"part {self.number}/{self.count}: expected I/N with I from 1 to N, such as 2/8")

    @classmethod
    def of(cls, text: str) -> ShardPart:
        """From "I/N"; raises ConfigError for anything else."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None:
            raise ConfigError(f"part {text!r}: expected I/N with I from 1 to N, such as 2/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def shards(self, source: str | Path) -> list[Path]:
        """The shards of this part; none where there are fewer than parts. Raises DataError where there are none."""
        return shard_paths(source)[self.number - 1 :: self.count]


@contextmanager
def locked_part(out: Path, part: ShardPart | None) -> Iterator[None]:
    """Holds the lock of a folder, or of one part of what is written there: parts do not wait for one another.

    Raises BusyError, naming the holder, where another process writes the same, or one all and the other a part; OSError
    as `locked` does.
    """
    with locked(out if part is None else out / f".part-{part.number}-of-{part.count}"):
        others = [out] if part is not None else sorted(out.glob(".part-*-of-*"))
        for folder in others:
            if busy := holder_of(folder):
                raise BusyError(busy)
        yield
