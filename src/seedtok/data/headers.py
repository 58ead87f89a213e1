"""The headers of a tar file: which files it holds, and where; past a damaged one, too."""

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LINK = -1  # offset of a link whose file is not in the tar before it
BLOCK = 512
Member = tuple[str, int, int]  # name, offset and size of a file
Members = tuple[list[Member], int]  # and where the headers end
Places = dict[str, tuple[int, int]]  # offset and size of files, by name


class Contents(NamedTuple):
    """The files of a tar; `breaks` has where something other than a header follows, and the number of files before."""

    members: list[Member]
    breaks: list[tuple[int, int]]


def read_headers(path: Path) -> Contents:
    """The files in a tar; after what is no header, those from the next header on.

    A hard link is the file that it names. Raises what tarfile does for headers that it cannot take.
    """
    known: Places = {}
    members, end = _members(path, 0, known)
    breaks = list[tuple[int, int]]()
    while end < path.stat().st_size:
        start, is_zero = _next_header(path, end)
        if not is_zero and (start is not None or not is_cut(path)):
            breaks.append((end, len(members)))
        if start is None:
            break
        more, end = _members(path, start, known)
        members += more
        end = max(end, start + BLOCK)  # tarfile can refuse what has the checksum of a header
    return Contents(members, breaks)


def _members(path: Path, start: int, known: Places) -> Members:
    """The files in a tar from the header at `start` on; hard links may lead to `known` files, which these join."""
    found, end = usual_members(path, start) or any_members(path, start, known)
    known.update((name, (offset, size)) for name, offset, size in found)
    return found, end


def any_members(path: Path, start: int = 0, before: Places | None = None) -> Members:
    """The files in a tar of any kind, from the header at `start` on, as far as it can be read.

    `before` are files before that, to which hard links may lead. Raises ValueError for a negative size.
    """
    found = list[Member]()
    known: Places = {}
    before, end = before or {}, start
    with path.open("rb") as file:
        file.seek(start)
        with suppress(tarfile.ReadError), tarfile.open(fileobj=file, mode="r:") as tar:  # of a truncated member
            for member in tar:
                if member.size < 0 or tar.offset <= end:  # the same headers would be read for ever
                    raise ValueError("a negative size")
                end = tar.offset
                if member.isfile():
                    found.append((member.name, member.offset_data, member.size))
                elif member.islnk():
                    offset, size = known.get(member.linkname) or before.get(member.linkname) or (LINK, 0)
                    found.append((member.name, offset, size))
                elif member.issym():
                    found.append((member.name, LINK, 0))
                else:
                    continue
                known[member.name] = found[-1][1:]
            end = tar.offset
    return found, end


def usual_members(path: Path, start: int = 0) -> Members | None:
    """As `any_members`, in a fifth of the time, of a tar with plain files and folders alone; None for any other."""
    found: list[Member] = []
    at = start
    with path.open("rb") as file:
        while True:
            file.seek(at)
            head = file.read(BLOCK)
            if head == bytes(BLOCK):
                return (found, at) if at > start else None
            if len(head) < BLOCK or head[257:262] != b"ustar" or head[156] not in b"05":
                return None
            name, size = head[:100].split(b"\0", 1)[0], head[124:136]
            if b"-" in size:  # tarfile would read the same header for ever
                raise ValueError("a negative size")
            try:
                length = int(size.strip(b"\0 "), 8)
                if not _is_header(head):
                    return None
                if head[257:263] == b"ustar\0" and (prefix := head[345:500].split(b"\0", 1)[0]):
                    name = prefix + b"/" + name
                decoded = name.decode()
            except ValueError:  # a number in base 256, or a name that is no UTF-8
                return None
            if head[156] == ord("0"):
                found.append((decoded, at + BLOCK, length))
                at += -(-length // BLOCK) * BLOCK
            at += BLOCK


def _is_header(head: bytes) -> bool:
    """Whether the checksum of a block is that of a header; raises ValueError where it is no number."""
    checksum = head[148:156]
    return int(checksum.strip(b"\0 "), 8) == sum(head) - sum(checksum) + 8 * 32


def _next_header(path: Path, start: int) -> tuple[int | None, bool]:
    """Where the next header begins, from a byte on, None for nowhere; and whether all before it is zeros."""
    is_zero = True
    with path.open("rb") as file:
        file.seek(start)
        at = start
        while part := file.read(1 << 16):
            for found in _marks(part):
                with suppress(ValueError):
                    if _is_header(part[found : found + BLOCK]):
                        return at + found, is_zero and not part[:found].strip(b"\0")
            is_zero = is_zero and not part.strip(b"\0")
            at += len(part)
    return None, is_zero


def _marks(part: bytes) -> Iterator[int]:
    """Where whole blocks begin that have the mark of a header."""
    at = part.find(b"ustar")
    while at >= 0:
        if at % BLOCK == 257 and at - 257 + BLOCK <= len(part):
            yield at - 257
        at = part.find(b"ustar", at + 1)


def is_cut(path: Path) -> bool:
    """Whether a tar lacks the block of zeros at its end."""
    with path.open("rb") as file:
        file.seek(-min(BLOCK, path.stat().st_size), os.SEEK_END)
        return bool(file.read().strip(b"\0"))
