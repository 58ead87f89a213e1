"""Bad samples: they are skipped, counted and reported; reading stops when there are too many."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

from seedtok.core.errors import DataError, SeedTokWarning

NAMED = 5  # samples that warnings name; the log has all


class BadSample(DataError):
    """A sample of a shard that cannot be read; the message is the reason."""


@dataclass(frozen=True)
class SkipLimits:
    """How many samples of a source may be bad: a fraction `share` of all, or `at_least` if that is more.

    A `share` of 0 allows none. `log` is a file to which a JSON line is appended for each bad sample, with shard, key
    and reason. Each process that reads samples counts and logs its own.
    """

    share: float = 0.01
    at_least: int = 10
    log: Path | None = None

    def allowed(self, total: int) -> int:
        return max(self.at_least if self.share else 0, int(self.share * total))


class Skipped:
    """The bad samples found so far in a source of `total` samples; `reasons` has shard, key and reason of each."""

    def __init__(self, limits: SkipLimits, total: int) -> None:
        self.limits, self.total = limits, total
        self.reasons: list[tuple[str, str, str]] = []
        self.count = 0

    def add(self, shard: Path, key: str, reason: str, count: int = 1) -> None:
        """Records a bad sample, or `count` missing ones; raises DataError when more are bad than allowed."""
        self.reasons.append((str(shard), key, reason))
        self.count += count
        where = f"{shard}, sample {key}" if key else str(shard)
        if self.limits.log is not None:
            self.limits.log.parent.mkdir(parents=True, exist_ok=True)
            with self.limits.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"shard": str(shard), "key": key, "reason": reason}) + "\n")
        if self.count > self.limits.allowed(self.total):
            raise DataError(
                f"{self.count} of {self.total:,} samples cannot be read; at most {self.limits.share:g} of all may be "
                f"bad; the last: {where}: {reason}; repair the shards, or allow more"
            )
        if len(self.reasons) <= NAMED:
            last = "; further ones are counted, not named" if len(self.reasons) == NAMED else ""
            warnings.warn(f"skipped: {where}: {reason}{last}", SeedTokWarning, stacklevel=2)
