"""Samples that cannot be read: they are left out, counted and named, and where they are many, reading stops."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

from seedtok.core.errors import DataError, SeedTokWarning

NAMED = 5  # the samples that are named in warnings; the log has all


class BadSample(DataError):
    """A sample of a shard that cannot be read, with the reason."""


@dataclass(frozen=True)
class SkipLimits:
    """How many samples of a source may be bad: a share of all, but always as many as `at_least` unless it is 0.

    `log` is a file to which a JSON line is appended for each: shard, key and reason. Every process that reads samples
    counts, and writes, those that it meets.
    """

    share: float = 0.01
    at_least: int = 10
    log: Path | None = None

    def allowed(self, total: int) -> int:
        return max(self.at_least if self.share else 0, int(self.share * total))


class Skipped:
    """The bad samples that were met in a source of `total` samples."""

    def __init__(self, limits: SkipLimits, total: int) -> None:
        self.limits, self.total = limits, total
        self.reasons: list[tuple[str, str, str]] = []  # shard, key, reason
        self.count = 0

    def add(self, shard: Path, key: str, reason: str, count: int = 1) -> None:
        """Notes a sample, or so many that a shard lacks; raises DataError where that makes more than are allowed."""
        self.reasons.append((str(shard), key, reason))
        self.count += count
        where = f"{shard}, sample {key}" if key else str(shard)
        if self.limits.log is not None:
            self.limits.log.parent.mkdir(parents=True, exist_ok=True)
            with self.limits.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"shard": str(shard), "key": key, "reason": reason}) + "\n")
        if self.count > self.limits.allowed(self.total):
            raise DataError(
                f"{self.count} of {self.total:,} samples cannot be read, and a share of {self.limits.share:g} may be "
                f"bad; the last: {where}: {reason}; mend the shards, or allow more"
            )
        if len(self.reasons) <= NAMED:
            last = "; more are counted and not named" if len(self.reasons) == NAMED else ""
            warnings.warn(f"skipped: {where}: {reason}{last}", SeedTokWarning, stacklevel=2)
