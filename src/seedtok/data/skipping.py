"""Bad samples: they are skipped, counted and reported; reading stops when there are too many."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import DataError
from seedtok.core.notices import warn

SKIPPED = ".skipped.jsonl"  # suffix of the file, beside one of codes, that lists its skipped samples
NAMED = 5  # samples that warnings name; the log has all


class BadSample(DataError):
    """A sample of a shard that cannot be read; the message is the reason."""


@dataclass(frozen=True)
class SkipLimits:
    """How many samples of a source may be bad: a fraction `share` of all, or `at_least` if that is more.

    A `share` of 0 allows none. `log` is a file to which a JSON line is appended for each bad sample that it lacks, with
    shard, key and reason. Each process that reads samples counts and logs its own.
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
        self._logged: set[tuple[str, str]] | None = None  # shard and key of what the log has; None before it is read

    def add(self, shard: Path, key: str, reason: str, count: int = 1) -> None:
        """Records a bad sample, or `count` missing ones; raises DataError when more are bad than allowed."""
        self.reasons.append((str(shard), key, reason))
        self.count += count
        where = f"{shard}, sample {key}" if key else str(shard)
        if self.limits.log is not None:
            self._append(self.limits.log, str(shard), key, reason)
        if self.count > self.limits.allowed(self.total):
            raise DataError(
                f"{self.count} of {self.total:,} samples cannot be read; at most {self.limits.share:g} of all may be "
                f"bad; the last: {where}: {reason}; repair the shards, or allow more"
            )
        if len(self.reasons) <= NAMED:
            last = "; further ones are counted, not named" if len(self.reasons) == NAMED else ""
            warn(f"skipped: {where}: {reason}{last}")

    def _append(self, log: Path, shard: str, key: str, reason: str) -> None:
        """Appends a bad sample to the log, unless it is there, as after an earlier part of a run."""
        if self._logged is None:
            self._logged = _logged(log)
        if (shard, key) in self._logged:
            return
        self._logged.add((shard, key))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"shard": shard, "key": key, "reason": reason}) + "\n")

    def add_listed(self, shard: Path, target: Path) -> None:
        """Records the samples that `write_skipped` listed beside the codes of a shard; raises DataError as `add` does.

        Those that are missing at the end of a shard are known when it is opened, and left out.
        """
        listed = target.with_suffix(SKIPPED)
        try:
            lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
            records = [json.loads(line) for line in lines]
            found = [(str(record["key"]), str(record["reason"])) for record in records]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"cannot read {listed}: {error}; remove it and {target}") from None
        for key, reason in found:
            if key:
                self.add(shard, key, reason)


def _logged(log: Path) -> set[tuple[str, str]]:
    """Shard and key of each bad sample of a log; lines that cannot be read are left out."""
    found = set()
    with suppress(OSError, UnicodeDecodeError):
        for line in log.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                found.add((str(record["shard"]), str(record["key"])))
    return found


def write_skipped(reasons: Iterable[tuple[str, str, str]], shard: Path, target: Path) -> None:
    """Writes which of the samples (shard, key, reason) of a shard were skipped, beside its codes.

    Where there are none, the file is removed.
    """
    listed = target.with_suffix(SKIPPED)
    lines = [
        json.dumps({"shard": path, "key": key, "reason": reason}) + "\n"
        for path, key, reason in reasons
        if path == str(shard)
    ]
    if not lines:
        listed.unlink(missing_ok=True)
        return
    with atomic_file(listed) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
