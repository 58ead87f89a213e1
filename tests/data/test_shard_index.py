"""Stored indexes of shards: what the headers say, never of another shard, and harmless whoever wrote them."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedtok.data import shard_index, tars
from seedtok.data.held_out import Part, image_hash, shard_hashes
from seedtok.data.shard_index import Index, index_path, read_index, state_of, write_index
from seedtok.data.shards import ShardSamples
from seedtok.data.stored import png_bytes
from seedtok.data.tars import index_samples, walk_samples


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Shards are indexed at once, and not only when they have not changed for a while."""
    monkeypatch.setattr(shard_index, "SETTLED", -60.0)


def write(path: Path, files: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            (member := tarfile.TarInfo(name)).size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(count: int, first: int = 0) -> dict[str, bytes]:
    numbers = range(first, first + count)
    return {f"{i:03}.{suffix}": data for i in numbers for suffix, data in (
        ("jpg", b"picture"), ("txt", b"a cat"), ("json", json.dumps({"url": f"u{i}"}).encode()),
    )}  # fmt: skip


@pytest.fixture
def shard(tmp_path) -> Path:
    return write(tmp_path / "0.tar", samples(4))


def odd_shards(folder: Path) -> list[Path]:
    """Shards with all that headers can say of a sample."""
    long = {f"{'é' * 90}{key}": data for key, data in samples(2).items()}
    lacking = {"a.jpg": b"x", "b.txt": b"y", "c.v1.jpg": b"x", "c.v1.txt": b"y", "d.cls": b"1", "e.txt": b""}
    found = [
        write(folder / "pax.tar", long, tarfile.PAX_FORMAT), write(folder / "gnu.tar", long, tarfile.GNU_FORMAT),
        write(folder / "lacking.tar", samples(2) | lacking), write(folder / "none.tar", {}),
        write(folder / "cut.tar", samples(3)), write(folder / "damaged.tar", samples(3)),
        write(folder / "twice.tar", samples(2)),
    ]  # fmt: skip
    with tarfile.open(folder / "twice.tar", "a") as tar:
        (member := tarfile.TarInfo("000.jpg")).size = 1
        tar.addfile(member, io.BytesIO(b"x"))
        for key, kind in (("linked", tarfile.LNKTYPE), ("pointing", tarfile.SYMTYPE)):
            (member := tarfile.TarInfo(f"{key}.jpg")).type = kind
            member.linkname = "001.jpg"
            tar.addfile(member)
            (member := tarfile.TarInfo(f"{key}.txt")).size = 5
            tar.addfile(member, io.BytesIO(b"a dog"))
    (folder / "cut.tar").write_bytes((folder / "cut.tar").read_bytes()[: 512 * 13 + 3])
    whole = (folder / "damaged.tar").read_bytes()
    (folder / "damaged.tar").write_bytes(whole[: 512 * 6] + b"\xa5" * 512 + whole[512 * 7 :])
    (folder / "bytes.tar").write_bytes(write(folder / "b.tar", {"x0.jpg": b"", "x0.txt": b""}).read_bytes())
    name = tarfile.TarInfo("\udcff.jpg").tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    (folder / "b.tar").write_bytes(name + bytes(1024))
    return [*found, folder / "bytes.tar", folder / "b.tar"]


def test_an_index_has_what_the_headers_say(tmp_path, monkeypatch):
    paths = odd_shards(tmp_path)
    entries = [walk_samples(path) for path in paths]
    assert sum(entry.problem is not None for found in entries for entry in found) >= 8
    for path, expected in zip(paths, entries, strict=True):
        assert list(index_samples(path)) == expected
        assert index_path(path).is_file()
    monkeypatch.setattr(tars, "read_headers", None)  # which would be an error
    for path, expected in zip(paths, entries, strict=True):
        found = index_samples(path)
        assert list(found) == expected
        assert found[1:] == expected[1:]
        assert [found[i - len(found)] for i in range(len(found))] == expected
        with pytest.raises(IndexError):
            found[len(found)]


def test_hashes_are_added_when_they_are_asked_for_and_stay(shard, monkeypatch):
    expected = np.array([image_hash({"url": f"u{i}"}) for i in range(4)], np.uint64)
    assert index_samples(shard).hashes is None
    assert np.array_equal(shard_hashes(shard), expected)
    write_index(shard, state_of(shard), Index.of(walk_samples(shard)))  # of a process that began before
    hashes = index_samples(shard).hashes
    assert hashes is not None
    assert np.array_equal(hashes, expected)


def test_a_shard_that_changed_is_indexed_again(shard, tmp_path):
    size = shard.stat().st_size
    index_samples(shard)
    write(shard, samples(4, first=5))
    os.utime(shard, (1, 1))  # however coarse the clock of the file system is
    assert shard.stat().st_size == size
    assert [entry.key for entry in index_samples(shard)] == ["005", "006", "007", "008"]
    before = state_of(shard)
    write(shard, samples(2))
    write_index(shard, before, Index.of([]))  # of a process that read it before it changed
    assert len(index_samples(shard)) == 2
    assert len(list((tmp_path / ".mapped").iterdir())) == 1


def test_a_shard_that_may_still_change_is_not_indexed(shard, monkeypatch):
    monkeypatch.setattr(shard_index, "SETTLED", 60.0)
    assert len(index_samples(shard)) == 4
    assert not index_path(shard).exists()


def test_a_broken_index_is_written_again(shard):
    index_samples(shard)
    whole = index_path(shard).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(40):
        broken = bytearray(whole[: int(rng.integers(len(whole)))] if number % 2 else whole)
        if broken:
            broken[int(rng.integers(len(broken)))] ^= int(rng.integers(1, 256))
        index_path(shard).write_bytes(broken)
        assert read_index(shard, state_of(shard)) is None
        assert list(index_samples(shard)) == walk_samples(shard)
        assert index_path(shard).read_bytes() == whole


@pytest.mark.parametrize("place", [(0, 1 << 40), (1 << 40, 1), (-1, 1), (8, -8), ((1 << 63) - 1, 10)])
def test_an_index_leads_to_nothing_outside_its_shard(shard, place):
    forged = Index(["0"], np.array([[*place, 0, 0, 0, 0]], np.int64), {})
    write_index(shard, state_of(shard), forged)
    assert index_path(shard).exists()
    assert list(index_samples(shard)) == walk_samples(shard)


@pytest.mark.parametrize("change", [
    {"keys": 4}, {"keys": [0, 1, 2, 3]}, {"keys": ["0"] * 5}, {"bad": [4], "problems": ["x"]}, {"bad": [0]},
    {"bad": None}, {"problems": [[]], "bad": [0]}, {"hashed": True}, {"hashed": 10}, {"state": None}, None, [],
    "nested",
])  # fmt: skip
def test_an_index_of_another_form_is_not_believed(shard, change):
    state = state_of(shard)
    head = {"state": list(state), "keys": list("0123"), "bad": [], "problems": [], "hashed": False}
    text = json.dumps(head | change if isinstance(change, dict) else change).encode()
    text = b"[" * 100_000 if change == "nested" else text
    body = len(text).to_bytes(8, "little") + text + bytes(4 * 48)
    digest = shard_index.blake2b(body, digest_size=shard_index.DIGEST).digest()
    index_path(shard).parent.mkdir()
    index_path(shard).write_bytes(shard_index.FORMAT + digest + body)
    assert list(index_samples(shard)) == walk_samples(shard)
    assert read_index(shard, state) is not None


def test_an_index_that_came_in_an_archive_is_not_believed(tmp_path):
    shard = write(tmp_path / "0.tar", samples(4))
    write_index(shard, state_of(shard), Index.of([]))
    assert not index_samples(shard)
    shutil.copytree(tmp_path, tmp_path / "received")  # with the times of the files
    assert len(index_samples(tmp_path / "received" / "0.tar")) == 4


def test_where_no_index_can_be_written_shards_are_read_without(shard, tmp_path):
    (tmp_path / ".mapped").write_text("in the way")
    assert list(index_samples(shard)) == walk_samples(shard)
    (tmp_path / ".mapped").unlink()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (tmp_path / ".mapped").symlink_to(elsewhere)
    assert list(index_samples(shard)) == walk_samples(shard)
    assert not list(elsewhere.iterdir())
    (tmp_path / ".mapped").unlink()
    (tmp_path / ".mapped").mkdir()
    index_path(shard).symlink_to(tmp_path / "0.tar")
    before = shard.read_bytes()
    assert list(index_samples(shard)) == walk_samples(shard)
    assert shard.read_bytes() == before


@pytest.mark.parametrize("part", [None, Part(0.5, held_out=False)])
def test_readers_go_through_each_shard_once(tmp_path, monkeypatch, part):
    picture = png_bytes(Image.new("RGB", (8, 8), "red"))
    for number in range(10):
        files = samples(4, first=4 * number)
        write(
            tmp_path / f"{number}.tar",
            {k.replace("jpg", "png"): picture if "jpg" in k else v for k, v in files.items()},
        )
    walked = []
    monkeypatch.setattr(tars, "walk_samples", lambda path: walked.append(path.name) or walk_samples(path))
    for rank in (0, 1):
        reader = ShardSamples(tmp_path, rank=rank, world_size=2, part=part)
        found = [sample.metadata["url"] for sample, _ in zip(reader, range(reader.epoch_size), strict=False)]
        assert len(found) > 10
    assert sorted(walked) == [f"{number}.tar" for number in range(10)]
