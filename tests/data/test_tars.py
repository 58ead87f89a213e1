"""What is in a shard, by its headers alone: damaged, joined, and with names that mislead."""

import io
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.data.prepared import ShardSet
from seedtok.data.shards import ShardSamples
from seedtok.data.stored import png_bytes
from seedtok.data.tars import _members, _usual_members, count_samples, index_samples, shard_paths, stats_path

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


@pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")
@pytest.mark.parametrize("after", [b"", b"more"])
def test_what_counts_do_not_count_is_skipped(tmp_path, after):
    whole = shard(path := tmp_path / "0.tar", ["0", "1.a", "1.b", "2"])
    path.write_bytes(whole + after * 200 + bytes(1024 * bool(after)))
    stats_path(path).write_text('{"successes": 3}')
    samples = ShardSamples(path, shuffle=False)
    assert [sample.metadata["key"] for sample in samples.of_shard(0)] == ["0", "2"]
    assert samples.skipped.count == 2 + bool(after)


def test_a_negative_size_is_no_endless_tar(tmp_path):
    whole = bytearray(shard(path := tmp_path / "0.tar", ["0"]))
    whole[124:136] = b"-0000001000\0"
    whole[148:156] = b"%06o\0 " % (sum(whole[:512]) - sum(whole[148:156]) + 8 * 32)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="a negative size"):
        index_samples(path)


def test_every_picture_with_a_dot_in_its_name_is_counted(tmp_path):
    shard(path := tmp_path / "0.tar", ["photo v1.2", "photo v1.3", "other"])
    entries = {entry.key: entry.problem for entry in index_samples(path)}
    assert list(entries) == ["photo v1.2.png", "other", "photo v1.3.png"]
    assert ["rename" in (problem or "") for problem in entries.values()] == [True, False, True]


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
            with suppress(ValueError):  # a negative size
                if found := _usual_members(path):
                    assert found == _members(path)


def test_a_tar_with_links_is_read_by_tarfile(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        (member := tarfile.TarInfo("0.png")).type = tarfile.SYMTYPE
        tar.addfile(member)
    assert _usual_members(path) is None
    assert index_samples(path) == []
