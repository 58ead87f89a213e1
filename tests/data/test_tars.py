"""What is in a shard, by its headers alone: damaged, joined, and with names that mislead."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedtok.data.prepared import ShardSet
from seedtok.data.stored import png_bytes
from seedtok.data.tars import _members, _usual_members, count_samples, index_samples, shard_paths

PICTURE = png_bytes(Image.new("RGB", (8, 8), "red"))


def shard(path: Path, keys: list[str], caption: str = "a cat") -> bytes:
    with tarfile.open(path, "w") as tar:
        for key in keys:
            for suffix, data in (("png", PICTURE), ("txt", caption.encode()), ("json", b"{}")):
                (member := tarfile.TarInfo(f"{key}.{suffix}")).size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path.read_bytes()


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
def test_what_follows_a_damaged_header_is_noticed(tmp_path, filler):
    whole = shard(path := tmp_path / "0.tar", ["0", "1", "2", "3", "4"])
    start = index_samples(path)[3].image[0] - 512
    path.write_bytes(whole[:start] + filler * 512 + whole[start + 512 :])
    *good, rest = index_samples(path)
    assert [entry.key for entry in good] == ["0", "1", "2"]
    assert rest.problem is not None
    assert "the shard is damaged" in rest.problem
    assert count_samples(path) == 4


def test_joined_shards_are_noticed_and_zeros_at_the_end_are_not(tmp_path):
    whole = shard(path := tmp_path / "0.tar", ["0", "1"])
    path.write_bytes(whole + whole)
    assert [entry.problem is None for entry in index_samples(path)] == [True, True, False]
    path.write_bytes(whole + bytes(100_000))
    assert [entry.problem for entry in index_samples(path)] == [None, None]


def test_every_picture_with_a_dot_in_its_name_is_counted(tmp_path):
    shard(path := tmp_path / "0.tar", ["photo v1.2", "photo v1.3", "other"])
    entries = {entry.key: entry.problem for entry in index_samples(path)}
    assert list(entries) == ["photo v1.2.png", "photo v1.3.png", "other"]
    assert ["rename" in (problem or "") for problem in entries.values()] == [True, True, False]


def test_side_files_of_macos_are_no_samples(tmp_path):
    shard(tmp_path / "0.tar", ["0", "._0"])
    (tmp_path / "._0.tar").write_bytes(b"resource fork")
    assert shard_paths(tmp_path) == [tmp_path / "0.tar"]
    assert [entry.key for entry in index_samples(tmp_path / "0.tar")] == ["0"]


def test_a_set_with_other_captions_of_the_same_length_is_another_set(tmp_path):
    prints = set()
    for caption in ("a cat", "a dog"):
        shard(tmp_path / "0.tar", ["0"], caption)
        prints.add(ShardSet(tmp_path / "0.tar").info.fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_say_what_tarfile_reads_in_them(tmp_path, form):
    rng = np.random.default_rng(form)
    names = ["a/b/0.png", "0.txt", "é.json", "x" * 99, f"{'d' * 60}/{'e' * 90}.jpg", "y" * 300, f"{'f/' * 80}g.txt"]
    for count in range(1, len(names) + 1):
        path = tmp_path / f"{count}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            for name in ["folder/", *names[:count]]:
                if form == tarfile.USTAR_FORMAT and len(name) > 250:
                    continue
                member = tarfile.TarInfo(name.rstrip("/"))
                if name.endswith("/"):
                    member.type = tarfile.DIRTYPE
                    tar.addfile(member)
                else:
                    member.size = int(rng.integers(0, 2000))
                    tar.addfile(member, io.BytesIO(rng.bytes(member.size)))
        found = _usual_members(path)
        assert found == _members(path) if form == tarfile.USTAR_FORMAT else found in (None, _members(path))
        data = path.read_bytes()
        for _ in range(40):  # cut short and damaged: the two agree, or tarfile is asked
            broken = bytearray(data[: int(rng.integers(600, len(data)))])
            broken[int(rng.integers(0, len(broken)))] ^= int(rng.integers(1, 256))
            path.write_bytes(broken)
            if found := _usual_members(path):
                assert found == _members(path)


def test_a_tar_with_links_is_read_by_tarfile(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        (member := tarfile.TarInfo("0.png")).type = tarfile.SYMTYPE
        tar.addfile(member)
    assert _usual_members(path) is None
    assert index_samples(path) == []
