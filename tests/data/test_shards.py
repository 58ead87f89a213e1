"""Shards: written whole or not at all, the same from the same seed, and read back exactly once an epoch."""

import errno
import json
import tarfile
from collections import Counter
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

from seedtok.core.errors import DataError, ImageError, SeedTokWarning
from seedtok.data.pack import pack
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits
from seedtok.data.stored import png_bytes
from seedtok.mini.world.scenes import Scene, caption, render, unique_scenes
from seedtok.mini.world.shards import write_scene_shards


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def keys(samples, count: int) -> list[str]:
    return [sample.metadata["key"] for sample in islice(samples, count)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """23 samples in 10 shards: more than one window."""
    out = tmp_path_factory.mktemp("shards")
    write_scene_shards(out, "train", 23, size=64, shard_size=2)
    for path in list(out.glob("*_stats.json"))[::2]:  # counts are a help, not a need
        path.unlink()
    return out


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "sub/c.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"A Photo of {Path(name).stem}!\n")
    return folder


# ---------------------------------------------------------------- scenes


def test_scene_shards_have_img2datasets_layout(tmp_path):
    seen = []
    report = write_scene_shards(tmp_path / "out", "validation", 25, size=64, shard_size=10, progress=seen.append)
    assert report.written == 25
    assert report.skipped == ()
    assert [path.name for path in report.shards] == ["00000.tar", "00001.tar", "00002.tar"]
    assert all(path.is_file() for path in report.shards)
    assert seen == list(range(1, 26))
    assert set(files(tmp_path / "out")) == {f"0000{i}{end}" for i in range(3) for end in (".tar", "_stats.json")}
    stats = json.loads((tmp_path / "out/00002_stats.json").read_text())
    assert stats == {
        "count": 5,
        "successes": 5,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": 5},
    }
    with tarfile.open(report.shards[1]) as tar:
        assert tar.getnames()[:4] == ["000010.png", "000010.txt", "000010.json", "000011.png"]


def test_webdataset_reads_them(tmp_path):
    report = write_scene_shards(tmp_path, "test", 5, size=64)
    with report.shards[0].open("rb") as file:
        parts = [part | {"__url__": "file"} for part in tar_file_iterator(file)]
    found = list(group_by_keys(parts))
    for sample, scene in zip(found, unique_scenes("test", 5), strict=True):
        assert sample["txt"].decode() == caption(scene)
        assert json.loads(sample["json"])["key"] == sample["__key__"]
        assert np.array_equal(np.asarray(Image.open(BytesIO(sample["png"]))), render(scene, 64))


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_scene_shards(tmp_path / name, "train", 12, size=64, seed=seed, shard_size=5)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_train_is_worded_at_random_and_evaluation_canonically(tmp_path):
    for split in ("train", "test"):
        write_scene_shards(tmp_path / split, split, 30, size=64)
        samples = list(islice(ShardSamples(tmp_path / split, shuffle=False), 30))
        canonical = [s.caption == caption(Scene.from_json(s.metadata["scene"])) for s in samples]
        assert all(canonical) if split == "test" else 0 < sum(canonical) < 15
        assert all(s.metadata["caption"] == s.caption for s in samples)
        assert {(s.metadata["split"], s.metadata["seed"]) for s in samples} == {(split, 0)}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("training", 5), "no split 'training': choose train"),
        (("train", 0), "at least 1"),
        (("train", 5, 100), "64 or 128"),
        (("train", 5, 64, -1), "seed of at least 0"),
        (("train", 5, 64, 0, 0), "a shard size of 0 samples; expected 1 or more"),
    ],
)
def test_scene_arguments(tmp_path, arguments, match):
    with pytest.raises(DataError, match=match):
        write_scene_shards(tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_shards_is_left_alone(tmp_path, photos):
    write_scene_shards(tmp_path / "out", "test", 2, size=64)
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match="already has shards"):
        write_scene_shards(tmp_path / "out", "test", 2, size=64)
    with pytest.raises(DataError, match="already has shards"):
        pack(photos, tmp_path / "out")
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("existed", [True, False])
def test_an_exception_leaves_nothing(tmp_path, existed):
    out = tmp_path / "out"
    if existed:
        out.mkdir()
        (out / "mine.txt").touch()

    def stop(done: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene_shards(out, "train", 20, size=64, shard_size=3, progress=stop)
    assert list(out.iterdir()) == [out / "mine.txt"] if existed else not out.exists()
    assert write_scene_shards(out, "train", 4, size=64).written == 4


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    addfile = tarfile.TarFile.addfile

    def full(self, entry, data):
        if entry.name.startswith("000015"):
            raise OSError(errno.ENOSPC, "No space left on device")
        addfile(self, entry, data)

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(DataError, match=r"cannot write shards to .*: No space left"):
        write_scene_shards(tmp_path / "out", "train", 20, size=64, shard_size=10)
    assert not (tmp_path / "out").exists()


def test_a_failure_while_moving_into_place_leaves_nothing(tmp_path, monkeypatch):
    import os

    replace, moves = os.replace, []

    def third(source, target):
        moves.append(target)
        if len(moves) == 3:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", third)
    with pytest.raises(DataError, match="Input/output error"):
        write_scene_shards(tmp_path / "out", "train", 20, size=64, shard_size=10)
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="cannot write shards to"):
        write_scene_shards(tmp_path / "out", "train", 1)
    assert (tmp_path / "out").read_text() == "mine"


# ---------------------------------------------------------------- people's own pictures


def packed(*arguments, out: Path, **options):
    report = pack(*arguments, out, **options)
    return report, list(islice(ShardSamples(out, shuffle=False), report.written))


def test_pack_a_folder(tmp_path, photos):
    report, samples = packed(photos, out=tmp_path / "out")
    assert report.written == 3
    assert [s.caption for s in samples] == ["a photo of a", "a photo of b", "a photo of c"]
    assert samples[0].metadata == {
        "key": "00000000",
        "caption": "a photo of a",
        "captions": ["a photo of a"],
        "original_captions": ["A Photo of a!\n"],
        "image": "a.jpg",
        "width": 60,
        "height": 40,
    }
    assert samples[2].metadata["image"] == "sub/c.jpg"
    with Image.open(photos / "b.png") as image:
        assert np.array_equal(np.asarray(samples[1].image), np.asarray(image))


def test_a_fine_jpeg_keeps_its_bytes_and_others_become_png(tmp_path, photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(photos / "turned.jpg", exif=exif)
    Image.new("CMYK", (20, 10)).save(photos / "cmyk.jpg")
    for name in ("turned", "cmyk"):
        (photos / f"{name}.txt").write_text(name)
    report, samples = packed(photos, out=tmp_path / "out")
    with tarfile.open(report.shards[0]) as tar:
        pictures = {n: tar.extractfile(n).read() for n in tar.getnames() if n.endswith(("png", "jpg"))}
    assert [Path(name).suffix for name in pictures] == [".jpg", ".png", ".png", ".jpg", ".png"]
    assert next(iter(pictures.values())) == (photos / "a.jpg").read_bytes()
    assert [s.image.size for s in samples] == [(60, 40), (60, 40), (20, 10), (60, 40), (10, 20)]


def test_pack_names_the_pictures_that_it_ignores(tmp_path, photos):
    (photos / "d.heic").touch()
    report = pack(photos, tmp_path / "out")
    assert report.written == 3
    ((name, reason),) = report.skipped
    assert name == "d.heic"
    assert ".heic images cannot be read; convert it" in reason


def test_size_reduces_the_shorter_side_and_never_enlarges(tmp_path, photos):
    Image.new("RGB", (9, 10)).save(photos / "small.png")
    (photos / "small.txt").write_text("small")
    _, samples = packed(photos, out=tmp_path / "out", size=20)
    assert [s.image.size for s in samples] == [(30, 20), (30, 20), (9, 10), (30, 20)]
    with pytest.raises(DataError, match="at least 1 pixel"):
        pack(photos, tmp_path / "other", size=0)


def test_what_is_broken_is_named_counted_and_skipped(tmp_path, photos):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:500])
    (photos / "broken.txt").write_text("broken")
    Image.new("RGB", (4, 4)).save(photos / "untold.png")
    Image.new("RGB", (4, 4)).save(photos / "silent.png")
    (photos / "silent.txt").write_text(" ... ")
    Image.new("RGB", (4, 4)).save(photos / "latin.png")
    (photos / "latin.txt").write_bytes(b"caf\xe9")
    seen = []
    report = pack(photos, tmp_path / "out", shard_size=2, progress=seen.append)
    assert report.written == 3
    assert seen == list(range(1, 8))
    reasons = dict(report.skipped)
    assert set(reasons) == {"broken.jpg", "untold.png", "silent.png", "latin.png"}
    assert "truncated" in reasons["broken.jpg"].lower()
    assert "no untold.txt" in reasons["untold.png"]
    assert reasons["silent.png"] == "an empty caption"
    assert "UTF-8" in reasons["latin.png"]
    stats = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*_stats.json"))]
    assert [s["successes"] for s in stats] == [2, 1]
    assert sum(s["count"] for s in stats) == 7
    assert sum(s["failed_to_resize"] for s in stats) == 1


TABLES = {
    "t.csv": '\ufeffImage,Caption\na.jpg,"One, two"\nsub/c.jpg,Three\n',
    "u.csv": 'other,filepath,title\n1,a.jpg,"One, two"\n2,sub/c.jpg,Three\n',
    "t.tsv": 'file_name\ttext\na.jpg\t"One, two\nsub/c.jpg\tThree\n',
    "t.jsonl": '{"path": "a.jpg", "text": "One, two"}\n\n{"path": "sub/c.jpg", "text": "Three"}\n',
    "t.json": '[{"file": "a.jpg", "caption": "One, two"}, {"file": "sub/c.jpg", "caption": "Three"}]',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, photos, name):
    (photos / name).write_text(TABLES[name])
    _, samples = packed(photos / name, out=tmp_path / "out")
    assert [s.caption for s in samples] == ["one, two", "three"]
    (tmp_path / name).write_text(TABLES[name])
    assert pack(tmp_path / name, tmp_path / "other", images=photos).written == 2
    assert pack(photos, tmp_path / "third", captions=tmp_path / name).written == 2
    assert files(tmp_path / "out") == files(tmp_path / "other") == files(tmp_path / "third")


def test_the_caption_is_in_the_json_where_there_is_no_text(tmp_path):
    records = {"a": {"caption": "a fox"}, "b": {"caption": None}, "c": {"captions": ["a cat"]}}
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key, record in records.items():
            picture = png_bytes(Image.new("RGB", (8, 8)))
            for suffix, data in (("png", picture), ("json", json.dumps(record).encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
    samples = ShardSamples(tmp_path, shuffle=False, limits=SkipLimits(at_least=5))
    with pytest.warns(SeedTokWarning, match="no caption: there is no .txt"):
        found = list(samples.of_shard(0))
    assert [(key, sample.caption) for key, sample in found] == [("a", "a fox")]


def test_pictures_that_need_no_caption(tmp_path, photos):
    """From a folder, a table without captions, and a shard of pictures and classes: one without has an empty one."""
    for source in (photos, photos / "t.csv"):
        (photos / "t.csv").write_text("file\na.jpg\n")
        if source == photos:
            (photos / "a.txt").unlink()
        out = tmp_path / source.name
        report = pack(source, out, needs_caption=False)
        assert not any("caption" in reason or ".txt" in reason for _, reason in report.skipped)
        limits = SkipLimits(0, needs_caption=False)
        found = dict(ShardSamples(out, shuffle=False, limits=limits).of_shard(0))
        (key,) = [key for key, sample in found.items() if sample.metadata["image"] == "a.jpg"]
        assert found[key].caption == ""
        assert not {"caption", "captions", "original_captions"} & set(found[key].metadata)
        with tarfile.open(out / "00000.tar") as tar:
            assert f"{key}.txt" not in tar.getnames()
    png = png_bytes(Image.new("RGB", (3, 2)))
    path = written(tmp_path / "imagenet.tar", png=png, cls=b"7")
    one_error(path, "no caption: there is no .txt, and no JSON with a text")
    ((_, sample),) = ShardSamples(path, shuffle=False, limits=limits).of_shard(0)
    assert (sample.caption, sample.image.size) == ("", (3, 2))


def test_what_else_a_table_says_is_kept(tmp_path, photos):
    row = {"path": "a.jpg", "text": "One", "license": "CC0", "score": 0.5, "width": "its own"}
    (photos / "t.jsonl").write_text(json.dumps(row))
    _, (sample,) = packed(photos / "t.jsonl", out=tmp_path / "out")
    assert sample.metadata["columns"] == {"license": "CC0", "score": 0.5, "width": "its own"}
    assert sample.metadata["width"] == sample.image.width


def test_rows_that_say_too_little(tmp_path, photos):
    (photos / "t.csv").write_text("image,caption\na.jpg,fine\nmissing.jpg,gone\nb.png\n,nobody\nsub,folder\n")
    report = pack(photos / "t.csv", tmp_path / "out")
    assert report.written == 1
    reasons = dict(report.skipped)
    assert "no such image" in reasons["missing.jpg"]
    assert reasons["b.png"] == "no text under 'caption'"
    assert reasons["record 4"] == "no text under 'image'"
    assert "is a folder" in reasons["sub"]
    stats = json.loads((tmp_path / "out/00000_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["failed_to_download"]) == (5, 1, 4)


def coco(photos: Path) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg"},
            {"id": 8, "file_name": "b.png"},
            {"id": 9, "file_name": "x"},
        ],
        "annotations": [
            {"image_id": 7, "caption": "First."},
            {"image_id": 9, "caption": "Nowhere"},
            {"image_id": 7, "caption": "Second."},
            {"image_id": 5, "caption": "Stray"},
            {"image_id": 8, "caption": None},
        ],
    }
    path = photos.parent / "captions.json"
    path.write_text(json.dumps(content))
    return path


def test_coco(tmp_path, photos):
    report, samples = packed(coco(photos), out=tmp_path / "out", images=photos)
    assert [(s.caption, s.metadata["captions"]) for s in samples] == [("first", ["first", "second"])]
    assert [name for name, _ in report.skipped] == ["b.png", "x", "image 5"]
    drawn = Counter(s.caption for s in islice(ShardSamples(tmp_path / "out", seed=1), 60))
    assert set(drawn) == {"first", "second"}
    assert min(drawn.values()) > 15


def test_a_coco_file_with_two_names_of_one_image_is_refused(tmp_path, photos):
    content = json.loads(coco(photos).read_text())
    content["images"].append({"id": 7, "file_name": "b.png"})
    (photos.parent / "captions.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"captions\.json: image 7 is both a\.jpg and b\.png"):
        packed(photos.parent / "captions.json", out=tmp_path / "out", images=photos)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        (
            "t.csv",
            "picture,words\na,b\n",
            "no column image, path, file, filepath or file_name; it has picture, words",
        ),
        ("t.csv", "image,words\na,b\n", "no column caption, captions, text or title"),
        ("t.csv", "", "no records"),
        ("t.csv", "image,caption\n", "no records"),
        (
            "t.csv",
            "image,caption\nx.jpg,y\n",
            "none of its 1 pictures can be packed; the first: x.jpg: no such",
        ),
        ("t.jsonl", '{"image": "a.jpg", "caption": "x"}\n{oops\n', "line 2: not JSON"),
        ("t.jsonl", "[1]\n", "no records"),
        ("t.json", "{", "not JSON"),
        ("t.json", '{"a": 1}', "expected a list of records, or a COCO file"),
        ("t.json", '{"images": [{"id": 1}], "annotations": []}', "an entry lacks 'file_name'"),
        ("t.parquet", "x", "expected a folder, .csv"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, photos, name, content, match):
    (photos / name).write_text(content)
    with pytest.raises(DataError, match=match):
        pack(photos / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_sources(tmp_path, photos):
    with pytest.raises(DataError, match="no such file or folder"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="no such folder of images"):
        pack(coco(photos), tmp_path / "out", images=tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected the folder of the images"):
        pack(coco(photos), tmp_path / "out", captions=coco(photos))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images in"):
        pack(tmp_path / "empty", tmp_path / "out")


# ---------------------------------------------------------------- back in


def test_round_trip_in_order(tmp_path):
    write_scene_shards(tmp_path, "test", 7, size=64, shard_size=3)
    samples = ShardSamples(tmp_path, shuffle=False)
    assert samples.epoch_size == 7
    twice = list(islice(samples, 14))
    for (image, text, metadata), scene in zip(twice, unique_scenes("test", 7) * 2, strict=True):
        assert np.array_equal(np.asarray(image), render(scene, 64))
        assert text == caption(scene)
        assert Scene.from_json(metadata["scene"]) == scene


def test_each_epoch_sees_each_sample_once_in_an_order_of_its_own(shards):
    seen = keys(ShardSamples(shards, seed=3), 69)
    epochs = [seen[i : i + 23] for i in (0, 23, 46)]
    assert all(len(set(epoch)) == 23 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert seen == keys(ShardSamples(shards, seed=3), 69)
    assert seen != keys(ShardSamples(shards, seed=4), 69)
    assert seen == keys(ShardSamples(sorted(shards.glob("*.tar")), seed=3), 69)


@pytest.mark.parametrize("world_size", [2, 3, 5, 23, 30])
def test_ranks_partition_every_epoch(shards, world_size):
    alone = keys(ShardSamples(shards), 3 * 23)
    ranks = [ShardSamples(shards, rank=rank, world_size=world_size) for rank in range(world_size)]
    steps = -(-len(alone) // world_size)
    together = [key for step in zip(*(keys(rank, steps) for rank in ranks), strict=True) for key in step]
    assert together[: len(alone)] == alone


@pytest.mark.parametrize("world_size", [1, 3])
def test_skip_resumes_exactly_and_reads_nothing(shards, world_size, monkeypatch):
    samples = ShardSamples(shards, seed=1, rank=world_size - 1, world_size=world_size)
    whole = keys(samples, 60)
    for start in (0, 1, 7, 8, 22, 23, 24, 50):
        assert keys(samples.skip(start), 60 - start) == whole[start:]
    assert keys(samples.skip(3).skip(4), 5) == whole[7:12]
    assert keys(samples, 3) == whole[:3]
    reads = []
    read = ShardSamples._read
    monkeypatch.setattr(ShardSamples, "_read", lambda self, *a: reads.append(a) or read(self, *a))
    assert keys(samples.skip(50), 1) == whole[50:51]
    assert len(reads) == 1


def test_reader_arguments(shards):
    with pytest.raises(DataError, match="rank from 0 to 1, not 2"):
        ShardSamples(shards, rank=2, world_size=2)
    with pytest.raises(DataError, match="seed of at least 0"):
        ShardSamples(shards, seed=-1)
    with pytest.raises(DataError, match="cannot skip -1"):
        ShardSamples(shards).skip(-1)
    with pytest.raises(DataError, match="no shards given"):
        ShardSamples([])


def one_error(source, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        list(islice(ShardSamples(source, limits=SkipLimits(share=0)), 40))
    assert "\n" not in str(caught.value)


def test_things_that_are_no_shards(tmp_path):
    one_error(tmp_path, "no shards in")
    one_error(tmp_path / "no.tar", "cannot read the shard .*No such file")
    for name, content, problem in (
        ("a.tar", b"", "ends early, after 0 samples"),
        ("b.tar", b"hello", "ends early, after 0 samples"),
        ("c.tar", b"x" * 4096, "not a tar file"),
    ):
        (tmp_path / name).write_bytes(content)
        one_error(tmp_path / name, problem)
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "empty/0.tar", "w"):
        pass
    one_error(tmp_path / "empty", "have no samples")


def test_truncated_anywhere(tmp_path):
    whole = write_scene_shards(tmp_path / "whole", "train", 4, size=64).shards[0].read_bytes()
    with tarfile.open(fileobj=BytesIO(whole)) as tar:
        members = tar.getmembers()
    cuts = {
        members[4].offset,
        members[4].offset + 512,
        members[3].offset_data + 700,
        members[-1].offset + 300,
    }
    for cut in sorted(cuts | {len(whole) // 2, 600}):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:cut])
        one_error(path, "ends early|have no samples")
    (tmp_path / "cut.tar").write_bytes(whole[: members[4].offset] + b"x" * 512 + bytes(1024))
    one_error(tmp_path / "cut.tar", "no caption: there is no .txt, and no JSON with a text")


def test_counts_that_do_not_match(tmp_path):
    write_scene_shards(tmp_path, "train", 4, size=64)
    (tmp_path / "00000_stats.json").write_text('{"successes": 5}')
    one_error(tmp_path, "sample number 4: missing: the shard holds 4, and 00000_stats.json says more")
    (tmp_path / "00000_stats.json").write_text('{"successes": 3}')
    one_error(tmp_path, "holds 4 samples, and 00000_stats.json says 3")
    (tmp_path / "00000_stats.json").write_text('{"successes": 0}')
    write_scene_shards(tmp_path / "other", "train", 1, size=64)
    one_error([tmp_path / "00000.tar", tmp_path / "other" / "00000.tar"], "holds 4 samples, and .* says 0")
    one_error(tmp_path, "holds 4 samples, and 00000_stats.json says 0")
    (tmp_path / "00000_stats.json").write_text("oops")
    assert ShardSamples(tmp_path).epoch_size == 4


def written(path: Path, **parts: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for suffix, data in parts.items():
            entry = tarfile.TarInfo(f"some/where/0.{suffix}")
            entry.size = len(data)
            tar.addfile(entry, BytesIO(data))
    return path


def test_samples_that_lack_something(tmp_path):
    buffer = BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    png = buffer.getvalue()
    one_error(written(tmp_path / "a.tar", txt=b"x"), r"sample some/where/0: no image .*it has txt")
    one_error(written(tmp_path / "b.tar", png=png), "sample some/where/0: no caption: there is no .txt")
    one_error(written(tmp_path / "c.tar", png=b"junk", txt=b"x"), "sample some/where/0: .*not an image")
    one_error(written(tmp_path / "d.tar", png=png, txt=b"x", json=b"{"), "sample some/where/0: ")
    one_error(written(tmp_path / "e.tar", png=png, txt=b"x", json=b"3"), "sample some/where/0: ")
    one_error(written(tmp_path / "f.tar", png=png, txt=b"\xff"), "sample some/where/0: ")
    sample = next(iter(ShardSamples(written(tmp_path / "g.tar", png=png, txt=b"fine"))))
    assert (sample.image.size, sample.caption, sample.metadata) == ((3, 2), "fine", {"key": "some/where/0"})
