"""Bad samples: they are skipped, counted and reported; reading stops when there are too many."""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import DataError
from seedtok.core.notices import warn

SKIPPED = ".skipped.jsonl"  # suffix of the file, beside one of codes, that lists its skipped samples
CHANCE = 5  # standard deviations by which one of several readers may find more than its part of the bad samples
NO_CAPTION = "no caption"  # how the reason begins of a sample that lacks nothing else
NAMED = 5  # samples that warnings name; the log has all


class BadSample(DataError):
    """A sample of a shard that cannot be read; the message is the reason."""


@dataclass(frozen=True)
class SkipLimits:
    """How many samples of a source may be bad: a fraction `share` of all, or `at_least` if that is more.

    A `share` of 0 allows none. `log` is a file to which a JSON line is appended for each bad sample that it lacks, with
    shard, key and reason. Each process that reads samples counts and logs its own: where several share a source, none
    may have more bad samples than are allowed of its part. Where a sample needs no caption, one without is not bad.
    """

    share: float = 0.01
    at_least: int = 10
    log: Path | None = None
    needs_caption: bool = True

    def allowed(self, total: int) -> int:
        """How many of `total` samples may be bad."""
        return max(self.at_least if self.share else 0, int(self.share * total))

    def allowed_of_part(self, part: float, total: int) -> int:
        """How many may be bad of a `part` of `total` samples: twice its share, and what chance may add, up to all's.

        Twice, because bad samples of one shard lie close together, and so in few parts.
        """
        if part >= total:
            return self.allowed(total)
        expected = self.share * part
        allowed = int(2 * expected + CHANCE * math.sqrt(expected))
        return min(self.allowed(total), max(self.at_least if self.share else 0, allowed))


class Skipped:
    """The bad samples found so far in a source of `total` samples; `reasons` has shard, key and reason of each.

    A reader that gives the places it comes to (`came_to`) may be one of several, with a part of the samples each.
    """

    def __init__(self, limits: SkipLimits, total: int) -> None:
        self.limits, self.total = limits, total
        self.reasons: list[tuple[str, str, str]] = []
        self.count = 0
        self._own = 0  # of `count`, those that other readers of the source do not find as well
        self._asked, self._first, self._last = 0, 0, 0  # how many places were come to, and from which to which
        self._logged: set[tuple[str, str]] | None = None  # shard and key of what the log has; None before it is read

    def came_to(self, place: int) -> None:
        """Notes that the sample at a place of the stream that all readers of the source share was asked for."""
        if not self._asked:
            self._first = self._last = place
        self._first, self._last = min(self._first, place), max(self._last, place)
        self._asked += 1

    def _part(self) -> float:
        """How many of the samples are this reader's: its part of an epoch, or what it asked for if that is more."""
        if not self._asked:
            return self.total
        share = self._asked / (self._last - self._first + 1)  # of the places: 1 for a reader that is alone
        return min(self.total, max(share * self.total, self._asked))

    def add(self, shard: Path, key: str, reason: str, count: int = 1, *, is_common: bool = False) -> None:
        """Records a bad sample, or `count` missing ones; raises DataError when more are bad than allowed.

        What `is_common` is found by every reader of the source.
        """
        self.reasons.append((str(shard), key, reason))
        self.count += count
        self._own += 0 if is_common else count
        where = f"{shard}, sample {key}" if key else str(shard)
        if self.limits.log is not None:
            self._append(self.limits.log, str(shard), key, reason)
        if self.count > self.limits.allowed(self.total):
            raise DataError(
                f"{self.count} of {self.total:,} samples cannot be read; at most {self.limits.share:g} of all may be "
                f"bad; the last: {where}: {reason}; repair the shards, or allow more{without_captions(reason)}"
            )
        part = self._part()
        if self._own > self.limits.allowed_of_part(part, self.total):
            raise DataError(
                f"{self._own} of about {part:,.0f} samples, which are one reader's part of {self.total:,}, cannot be "
                f"read; at most {self.limits.share:g} of all may be bad; the last: {where}: {reason}; repair the "
                "shards, or allow more"
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
        for key, reason in read_skipped(target):
            if key:
                self.add(shard, key, reason)


def read_skipped(target: Path) -> list[tuple[str, str]]:
    """Key and reason of each sample that `write_skipped` listed beside codes; raises DataError for a broken list."""
    listed = target.with_suffix(SKIPPED)
    try:
        lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
        records = [json.loads(line) for line in lines]
        return [(str(record["key"]), str(record["reason"])) for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {listed}: {error}; remove it and {target}") from None


def without_captions(reason: str) -> str:
    """What a message on skipped samples adds where a caption is all that one lacked."""
    return "; `seedtok tokenize --no-captions` needs none" if reason.startswith(NO_CAPTION) else ""


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
