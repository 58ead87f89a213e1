"""What is in a shard, by its headers alone: damaged, joined, and with names that mislead."""

import io
import tarfile
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.data.headers import any_members, usual_members
from seedtok.data.prepared import ShardSet
from seedtok.data.shards import ShardSamples
from seedtok.data.stored import png_bytes
from seedtok.data.tars import count_samples, index_samples, shard_paths, stats_path

suppress_warnings = partial(warnings.catch_warnings, action="ignore")
PICTURE = png_bytes(Image.new("RGB", (8, 8), "red"))


def shard(path: Path, keys: list[str], caption: str = "a cat") -> bytes:
    with tarfile.open(path, "w") as tar:
        for key in keys:
            for suffix, data in (("png", PICTURE), ("txt", caption.encode()), ("json", b"{}")):
                (member := tarfile.TarInfo(f"{key}.{suffix}")).size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path.read_bytes()


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
def test_only_the_sample_of_a_damaged_header_is_lost(tmp_path, filler):
    whole = shard(path := tmp_path / "0.tar", ["0", "1", "2", "3", "4"])
    start = index_samples(path)[2].image[0] - 512
    path.write_bytes(whole[:start] + filler * 512 + whole[start + 512 :])
    entries = index_samples(path)
    assert [(entry.key, entry.problem is None) for entry in entries] == [
        ("0", True), ("1", True), ("2", False), ("3", True), ("4", True),
    ]  # fmt: skip
    assert count_samples(path) == 5
    with suppress_warnings():
        samples = ShardSamples(path, shuffle=False)
        assert [key for key, _ in samples.of_shard(0)] == ["0", "1", "3", "4"]
    assert samples.skipped.count == 1


def test_a_gap_between_whole_samples_is_one_bad_sample(tmp_path):
    whole = shard(path := tmp_path / "0.tar", ["0", "1", "2", "3", "4"])
    second, fourth = (index_samples(path)[i].image[0] - 512 for i in (1, 3))
    path.write_bytes(whole[:second] + b"x" * (fourth - second) + whole[fourth:])
    *good, gap = index_samples(path)
    assert [entry.key for entry in good] == ["0", "3", "4"]
    assert gap.key == f"at byte {second}"
    assert gap.problem == "more data without a header: the shard is damaged"


def test_joined_shards_are_read_and_zeros_at_the_end_are_nothing(tmp_path):
    first, second = shard(path := tmp_path / "0.tar", ["0", "1"]), shard(tmp_path / "1.tar", ["2", "3"])
    path.write_bytes(first + second)
    assert [(entry.key, entry.problem) for entry in index_samples(path)] == [(key, None) for key in "0123"]
    path.write_bytes(first + bytes(100_000))
    assert [entry.problem for entry in index_samples(path)] == [None, None]


def test_a_key_that_occurs_twice_is_bad(tmp_path):
    shard(path := tmp_path / "0.tar", ["0", "1"])
    with tarfile.open(path, "a") as tar:
        for suffix, data in (("png", PICTURE), ("txt", b"a dog")):
            (member := tarfile.TarInfo(f"0.{suffix}")).size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert [(e.key, e.problem) for e in index_samples(path)] == [
        ("0", "its key occurs twice: pack the shard again"), ("1", None),
    ]  # fmt: skip


def test_what_is_not_read_does_not_matter(tmp_path):
    whole = shard(path := tmp_path / "0.tar", ["0", "1"])
    with tarfile.open(path, "a") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("0.cls"))
        (member := tarfile.TarInfo("latest")).type = tarfile.SYMTYPE
        tar.addfile(member)
    assert len(path.read_bytes()) > len(whole) - 10_240
    assert [(e.key, e.problem) for e in index_samples(path)] == [("0", None), ("1", None)]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_damaged_block_costs_one_sample_in_tars_with_long_headers(tmp_path, form):
    path, count = tmp_path / "0.tar", 4
    with tarfile.open(path, "w", format=form) as tar:
        for key in range(count):
            for suffix, data in (("png", PICTURE), ("txt", b"a cat")):
                (member := tarfile.TarInfo(f"{key}{'x' * 110}.{suffix}")).size = len(data)
                member.pax_headers = {"mtime": "1.5"}
                tar.addfile(member, io.BytesIO(data))
    whole = path.read_bytes()
    for block in range(1, whole.rstrip(b"\0").rfind(b"ustar") // 512):
        path.write_bytes(whole[: 512 * block] + b"\xa5" * 512 + whole[512 * (block + 1) :])
        entries = index_samples(path)
        good = sum(entry.problem is None for entry in entries)
        assert good == count or (good == count - 1 and len(entries) > good)


def test_a_dotted_picture_beside_a_sample_of_its_first_part_is_listed(tmp_path):
    shard(path := tmp_path / "0.tar", ["photo", "photo.v2"])
    good, dotted = index_samples(path)
    assert (good.key, good.problem, dotted.key) == ("photo", None, "photo.v2.png")
    assert "rename" in (dotted.problem or "")


def test_hard_links_are_the_files_that_they_name_and_symbolic_ones_are_bad(tmp_path):
    shard(path := tmp_path / "0.tar", ["0"])
    with tarfile.open(path, "a") as tar:
        for key, kind in (("1", tarfile.LNKTYPE), ("2", tarfile.SYMTYPE)):
            (member := tarfile.TarInfo(f"{key}.png")).type = kind
            member.linkname = "0.png"
            tar.addfile(member)
            (member := tarfile.TarInfo(f"{key}.txt")).size = 5
            tar.addfile(member, io.BytesIO(b"a dog"))
    first, hard, symbolic = index_samples(path)
    assert (hard.image, hard.problem) == (first.image, None)
    assert symbolic.problem == "png: a link to a file that is not before it in the shard"
    with suppress_warnings():
        found = [(key, sample.caption) for key, sample in ShardSamples(path, shuffle=False).of_shard(0)]
    assert found == [("0", "a cat"), ("1", "a dog")]


@pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")
@pytest.mark.parametrize("after", [b"", b"more"])
def test_what_counts_do_not_count_is_skipped(tmp_path, after):
    whole = shard(path := tmp_path / "0.tar", ["0", "1.a", "1.b", "2"])
    path.write_bytes(whole + after * 200 + bytes(1024 * bool(after)))
    stats_path(path).write_text('{"successes": 3}')
    samples = ShardSamples(path, shuffle=False)
    assert [key for key, _ in samples.of_shard(0)] == ["0", "2"]
    assert samples.skipped.count == 2 + bool(after)


def _with_size(header: bytes, size: bytes) -> bytes:
    """A header with this in the place of its size."""
    changed = header[:124] + size.ljust(12, b"\0") + header[136:]
    return changed[:148] + b"%06o\0 " % (sum(changed) - sum(changed[148:156]) + 8 * 32) + changed[156:]


BASE_256 = b"\xff\xff\xff\xff" + (2**64 - 512).to_bytes(8, "big")  # -512, as GNU's tar writes it


@pytest.mark.parametrize("size", [b"-0000001000", BASE_256, None])
@pytest.mark.parametrize("number", [0, 1])
def test_a_negative_size_is_no_endless_tar(tmp_path, size, number):
    with tarfile.open(path := tmp_path / "0.tar", "w") as tar:
        for name in ("0.png", "0.txt")[:number]:
            tar.addfile(tarfile.TarInfo(name))
    member = tarfile.TarInfo("1.png")
    member.pax_headers = {} if size else {"size": "-1536"}
    header = member.tobuf(tarfile.PAX_FORMAT)
    path.write_bytes(path.read_bytes()[: number * 512] + (_with_size(header, size) if size else header) + bytes(1024))
    with pytest.raises(DataError, match="negative size" if size or number else "truncated"):
        index_samples(path)


def test_a_link_after_damage_leads_to_a_file_before_it(tmp_path):
    (link := tarfile.TarInfo("1.png")).type, link.linkname = tarfile.LNKTYPE, "0.png"
    (text := tarfile.TarInfo("1.txt")).size = 5
    added = link.tobuf() + text.tobuf() + b"a dog".ljust(512, b"\0")
    whole = shard(path := tmp_path / "0.tar", ["0"])
    whole = whole[: -(-len(whole.rstrip(b"\0")) // 512) * 512]
    for damage in (b"x" * 512, b"x" * 512 + tarfile.TarInfo("2.txt").tobuf() + b"y" * 1024):
        path.write_bytes(whole + damage + added)
        first, linked = (entry for entry in index_samples(path) if entry.key in "01")
        assert (linked.image, linked.key) == (first.image, "1")


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
        found = usual_members(path)
        assert found == any_members(path) if form == tarfile.USTAR_FORMAT else found in (None, any_members(path))
        data = path.read_bytes()
        for _ in range(40):  # cut short and damaged: the two agree, or tarfile is asked
            broken = bytearray(data[: int(rng.integers(600, len(data)))])
            broken[int(rng.integers(0, len(broken)))] ^= int(rng.integers(1, 256))
            path.write_bytes(broken)
            with suppress(ValueError):  # a negative size
                if found := usual_members(path):
                    assert found == any_members(path)


def test_a_tar_with_links_is_read_by_tarfile(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        (member := tarfile.TarInfo("0.png")).type = tarfile.SYMTYPE
        tar.addfile(member)
    assert usual_members(path) is None
    assert [entry.problem is None for entry in index_samples(path)] == [False]
