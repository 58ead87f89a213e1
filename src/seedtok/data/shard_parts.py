"""Parts of a folder of shards, for jobs that run side by side, such as those of an array of a cluster's scheduler."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from seedtok.core.atomic import HIDDEN
from seedtok.core.errors import BusyError, ConfigError, DataError
from seedtok.core.locks import holder_of, locked
from seedtok.data.tars import shard_paths

PART = f"{HIDDEN}part-"  # begins the name of the folder that has the lock of a part


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
        """The shards of this part, none where they are fewer than parts; raises DataError where there are none."""
        if not Path(source).exists():
            raise DataError(f"no such file or folder: {source}")
        return shard_paths(source)[self.number - 1 :: self.count]


@contextmanager
def locked_part(out: Path, part: ShardPart | None) -> Iterator[None]:
    """Holds the lock of a folder, or of one part of what is written there: parts of one count are written side by side.

    Raises BusyError, naming the holder, where another process writes the same part, a part of another count, or all of
    it while this writes a part, or the other way round; if they start at the same moment, both may. OSError as `locked`
    does.
    """
    folder = out if part is None else out / f"{PART}{part.number}-of-{part.count}"
    try:
        with locked(folder):
            beside = [] if part is None else [out]
            beside += [path for path in out.glob(f"{PART}*") if not (part and path.name.endswith(f"-of-{part.count}"))]
            for other in beside:
                if busy := holder_of(other):
                    raise BusyError(busy)
            yield
    finally:
        if part is not None:
            with suppress(OSError):  # a killed process has left it
                folder.rmdir()
