"""Indexes of shards: where each sample is, stored once, so that no process has to read all headers of a shard again.

The index of `NAME.tar` is `index-NAME.tar.bin` in the hidden folder `.mapped` beside it. It is of one state of the
shard: its size and the times of its last changes. The time that an archive does not bring along (ctime) is one of them,
so an index that came in an archive or a copy is not believed. Indexes can be deleted at any time; where the folder
cannot be written, there are none.

The format is FORMAT, a digest of all that follows, the length of a JSON object, that object (state, keys, problems, and
whether there are hashes), the places (N, 6) int64 and the hashes (N,) uint64. Whoever may have written an index, it is
not unpickled, and leads to nothing outside its shard.
"""

import json
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np

from seedtok.core.atomic import atomic_file
from seedtok.core.records import json_value

T = TypeVar("T")
FORMAT = b"seedidx3"
DIGEST = 16  # bytes
LENGTH = 8  # bytes of the length of the JSON object, little-endian
LARGEST = 1 << 26  # bytes of an index that is written or read: about a million samples
SETTLED = 2.0  # seconds without a change, after which a shard is indexed: a later change then has another time
_refused: set[Path] = set()  # folders that could not be written: some take new files and cannot rename or remove them
State = tuple[int, int, int]  # size of a shard, and the times of the last change of its contents and of the file

MISSING = (0, 0)


class Entry(NamedTuple):
    """A sample of a shard: its key and the (offset, size) of its files in the tar, MISSING for one that it lacks.

    `problem` is the reason why it cannot be read, if the headers of the tar show one; to lack a caption is none.
    """

    key: str
    image: tuple[int, int]
    text: tuple[int, int]
    metadata: tuple[int, int]
    problem: str | None = None


@dataclass(frozen=True, eq=False)
class Index(Sequence[Entry]):
    """The N entries of a shard, each made when it is asked for.

    `places` (N, 6) int64 has offset and size of image, text and metadata, `problems` those of bad samples by their
    number. `hashes` (N,) uint64 are of the images' identities; None where nobody has asked for them.
    """

    keys: list[str]
    places: np.ndarray
    problems: dict[int, str]
    hashes: np.ndarray | None = None

    @classmethod
    def of(cls, entries: Sequence[Entry], hashes: np.ndarray | None = None) -> "Index":
        places = np.array([(*entry.image, *entry.text, *entry.metadata) for entry in entries], np.int64)
        problems = {number: entry.problem for number, entry in enumerate(entries) if entry.problem is not None}
        return cls([entry.key for entry in entries], places.reshape(-1, 6), problems, hashes)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        place = self.places[number].tolist()
        image, text, metadata = ((place[i], place[i + 1]) for i in (0, 2, 4))
        return Entry(self.keys[number], image, text, metadata, self.problems.get(number))


def state_of(shard: Path) -> State:
    """The state of a shard, which changes when it is written again or is a copy; raises OSError."""
    found = shard.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def index_path(shard: Path) -> Path:
    """Where the index of a shard is stored."""
    return shard.parent / ".mapped" / f"index-{shard.name}.bin"


def in_random_order(read: Callable[[Path], T], shards: Sequence[Path]) -> list[T]:
    """What `read` gives for each shard; processes that start together so index different ones, and share the work."""
    found: dict[int, T] = {}
    for number in np.random.default_rng().permutation(len(shards)).tolist():
        found[number] = read(shards[number])
    return [found[number] for number in range(len(shards))]


def read_index(shard: Path, state: State) -> Index | None:
    """The stored index of a shard in this state; None where there is none that is whole and of that state."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        path = index_path(shard)
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST:
            return _unpacked(path.read_bytes(), state)
    return None


def write_index(shard: Path, state: State, index: Index) -> None:
    """Stores the index of a shard in this state, for `read_index`.

    Does nothing where the folder cannot be written or is a link, which this process then does not try again, where the
    shard has changed since or within the last `SETTLED` seconds, and where as much is stored already. Indexes of shards
    that are gone stay.
    """
    path = index_path(shard)
    if path.parent in _refused:
        return
    try:
        if time.time() - max(state[1:]) / 1e9 < SETTLED or state_of(shard) != state or path.parent.is_symlink():
            return
        there = read_index(shard, state)
        packed = _packed(index, state)
        if (there is None or (there.hashes is None and index.hashes is not None)) and len(packed) <= LARGEST:
            path.parent.mkdir(exist_ok=True)
            with atomic_file(path) as temporary:
                temporary.write_bytes(packed)
    except OSError:
        _refused.add(path.parent)


def _packed(index: Index, state: State) -> bytes:
    head = {"state": state, "keys": index.keys, "bad": list(index.problems), "problems": list(index.problems.values())}
    text = json.dumps(head | {"hashed": index.hashes is not None}).encode()
    body = len(text).to_bytes(LENGTH, "little") + text + index.places.astype("<i8").tobytes()
    if index.hashes is not None:
        body += index.hashes.astype("<u8").tobytes()
    return FORMAT + blake2b(body, digest_size=DIGEST).digest() + body


def _unpacked(data: bytes, state: State) -> Index:
    """Raises ValueError, KeyError or TypeError for what is no index of a shard in this state."""
    digest, body = data[len(FORMAT) : len(FORMAT) + DIGEST], data[len(FORMAT) + DIGEST :]
    if not data.startswith(FORMAT) or blake2b(body, digest_size=DIGEST).digest() != digest:
        raise ValueError("not an index, or a broken one")
    end = LENGTH + int.from_bytes(body[:LENGTH], "little")
    head = json_value(body[LENGTH:end])
    if head["state"] != list(state):
        raise ValueError("of another state of the shard")
    keys, bad, reasons, hashed = (head[name] for name in ("keys", "bad", "problems", "hashed"))
    if not all(isinstance(texts, list) and all(type(text) is str for text in texts) for texts in (keys, reasons)):
        raise ValueError("keys or problems that are no texts")
    count = len(keys)
    if not all(type(number) is int and 0 <= number < count for number in bad) or type(hashed) is not bool:
        raise ValueError("problems of samples that are not there")
    middle = end + count * 6 * 8
    if len(body) != middle + count * 8 * hashed:
        raise ValueError("fewer or more places than samples")
    places = np.frombuffer(body[end:middle], "<i8").astype(np.int64).reshape(count, 3, 2)
    offsets, sizes = places[..., 0], places[..., 1]
    if (offsets < 0).any() or (sizes < 0).any() or (sizes > state[0]).any() or (offsets > state[0] - sizes).any():
        raise ValueError("places outside the shard")
    hashes = np.frombuffer(body[middle:], "<u8").astype(np.uint64) if hashed else None
    return Index(keys, places.reshape(count, 6), dict(zip(bad, reasons, strict=True)), hashes)
