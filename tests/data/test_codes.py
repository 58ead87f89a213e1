"""Codes as Parquet: round trip, resumption, and what is refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from encoders import StubEncoder
from seedtok import SeedTokenizer
from seedtok.core.errors import DataError, SeedTokWarning
from seedtok.core.images import Square
from seedtok.data import mapped, origins
from seedtok.data.batches import Stride
from seedtok.data.bulk import tokenize_shard
from seedtok.data.code_batches import code_batches
from seedtok.data.codes import read_codes, tokenize_shards
from seedtok.data.origins import Maker, origin_of, shard_hash
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits
from seedtok.data.stored import png_bytes
from seedtok.data.tars import index_samples
from seedtok.mini.world.shards import write_scene_shards
from seedtok.mini.world.source import scenes_of
from seedtok.tokenizer.familiarity import CheckedEncoder


def encode(images) -> np.ndarray:
    """Codes that tell pictures apart: some of their pixels."""
    return np.stack(
        [np.asarray(image).reshape(-1)[:: 64 * 64 * 3 // 32][:32].astype(np.int64) * 30 for image in images]
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "train"
    write_scene_shards(folder, "train", 25, size=64, shard_size=10)
    return folder


def test_round_trip(shards, tmp_path):
    done: list[int] = []
    report = tokenize_shards(shards, tmp_path / "codes", encode, "mini", batch_size=4, progress=done.append)
    assert [p.name for p in report.written] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert (report.images, report.kept, done[-1]) == (25, (), 25)
    assert done == sorted(done)
    codes = read_codes(tmp_path / "codes", "mini")
    samples = ShardSamples(shards, shuffle=False)
    assert codes.codes.dtype == np.uint16
    assert codes.codes.shape == (25, 32)
    for i, sample in enumerate(islice(samples, 25)):
        assert codes.captions[i] == sample.caption
        assert codes.keys[i] == sample.metadata["key"]
        assert codes.metadata[i]["scene"] == sample.metadata["scene"]
        assert np.array_equal(codes.codes[i], encode([sample.image])[0])


def test_what_is_finished_is_not_done_again(shards, tmp_path):
    tokenize_shards(shards, tmp_path, encode, "mini")
    (tmp_path / "00001.parquet").unlink()
    before = (tmp_path / "00000.parquet").stat().st_mtime_ns

    def broken(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_shards(shards, tmp_path, broken, "mini")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000.parquet", "00002.parquet"]
    report = tokenize_shards(shards, tmp_path, encode, "mini")
    assert [p.name for p in report.written] == ["00001.parquet"]
    assert len(report.kept) == 2
    assert (tmp_path / "00000.parquet").stat().st_mtime_ns == before
    assert len(read_codes(tmp_path)) == 25


def test_shards_of_finished_codes_are_not_read_again_unless_they_changed(shards, tmp_path, monkeypatch):
    moved = tmp_path / "shards"
    shutil.copytree(shards, moved)
    tokenize_shards(moved, tmp_path / "codes", encode, "mini")
    hashed: list[Path] = []
    monkeypatch.setattr(origins, "shard_hash", lambda path: hashed.append(path) or shard_hash(path))
    assert len(tokenize_shards(moved, tmp_path / "codes", encode, "mini").kept) == 3
    assert not hashed
    os.utime(moved / "00001.tar")
    assert len(tokenize_shards(moved, tmp_path / "codes", encode, "mini").kept) == 3
    assert hashed == [moved / "00001.tar"]


def test_another_process_maps_the_files_in_place_of_a_copy(shards, tmp_path, monkeypatch):
    tokenize_shards(shards, tmp_path / "codes", encode, "mini")
    monkeypatch.chdir(tmp_path)
    codes = read_codes("codes")
    pickled = pickle.dumps(codes)
    assert len(pickled) < 1000
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert isinstance(again.codes, np.memmap)
    assert np.array_equal(again.codes, codes.codes)
    assert (list(again.keys), again.tokenizer, again.encoder) == (list(codes.keys), codes.tokenizer, codes.encoder)


def test_codes_are_read_without_a_home(shards, tmp_path, monkeypatch):
    tokenize_shards(shards, tmp_path, encode, "mini")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert len(read_codes(tmp_path)) == 25


def test_codes_of_several_dtypes_are_warned_of(shards, tmp_path):
    for number, dtype in enumerate(("float32", "bfloat16")):
        shard = shards / f"0000{number}.tar"
        tokenize_shards(shard, tmp_path, encode, Maker("mini", "encoder", dtype))
    with pytest.warns(SeedTokWarning, match="10 rows in bfloat16, 10 rows in float32"):
        assert len(read_codes(tmp_path)) == 20


def test_batches_of_stored_codes_go_through_all_once_an_epoch_wherever_they_start(shards, tmp_path):
    tokenize_shards(shards, tmp_path, encode, "mini")
    stored = read_codes(tmp_path)
    whole = list(islice(code_batches(tmp_path, 5, seed=1), 10))
    assert sorted(tuple(row) for b in whole[:5] for row in b.codes.tolist()) == sorted(
        map(tuple, stored.codes.tolist())
    )
    assert [b.captions for b in whole[:5]] != [b.captions for b in whole[5:]]
    assert whole[0].codes_of == "mini"
    for batch in whole:
        for row, scene in zip(batch.codes.numpy(), scenes_of(batch) or [], strict=True):
            at = np.flatnonzero((stored.codes == row).all(1))
            assert any(stored.metadata[i]["scene"] == scene.to_json() for i in at)
    later = list(islice(code_batches(tmp_path, 5, Stride(20), seed=1), 3))
    assert [b.captions for b in later] == [b.captions for b in whole[4:7]]
    halves = [list(islice(code_batches(tmp_path, 5, Stride(0, r, 2), seed=1), 2)) for r in (0, 1)]
    mixed = [c for pair in zip(*([x for b in h for x in b.captions] for h in halves), strict=True) for c in pair]
    assert mixed == [c for b in whole[:4] for c in b.captions]


def test_bad_input_is_refused(shards, tmp_path):
    with pytest.raises(DataError, match="no codes in"):
        read_codes(tmp_path)
    tokenize_shards(shards / "00000.tar", tmp_path, encode, "mini")
    with pytest.raises(DataError, match="codes of another tokenizer"):
        tokenize_shards(shards, tmp_path, encode, "other")
    with pytest.raises(DataError, match="codes of another tokenizer"):
        read_codes(tmp_path, "other")
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="not a file of codes"):
        read_codes(tmp_path)
    with pytest.raises(DataError, match="no shards in"):
        tokenize_shards(tmp_path, tmp_path / "out", encode, "mini")


def test_a_tokenizer_stretches_images_everywhere_as_its_configuration_says(shards, tmp_path):
    """The successor of SEED was trained on images that were interpolated bilinearly."""
    SeedTokenizer.from_pretrained("mini").save_pretrained(tmp_path / "seed")
    config = json.loads((tmp_path / "seed" / "config.json").read_text())
    config["embedder"]["vision"] |= {"interpolation": "bilinear"}
    (tmp_path / "seed" / "config.json").write_text(json.dumps(config))
    bicubic, bilinear = SeedTokenizer.from_pretrained("mini"), SeedTokenizer.from_pretrained(tmp_path / "seed")
    side = bilinear.config.embedder.vision.image_size
    image = Image.effect_noise((200, 150), 90).convert("RGB")
    by_hand = image.resize((side, side), Image.Resampling.BILINEAR)
    assert torch.equal(bilinear.pixels(image), bicubic.pixels(by_hand))
    assert not torch.equal(bilinear.pixels(image), bicubic.pixels(image))
    assert bilinear.encoder_fingerprint != bicubic.encoder_fingerprint
    assert CheckedEncoder(bilinear).square(image) == by_hand


def test_images_come_to_the_encoder_in_its_own_size(shards, tmp_path):
    """Full-sized ones of whole batches would not fit into memory."""
    sizes = set()

    def small(images) -> np.ndarray:
        sizes.update(image.size for image in images)
        return np.stack([np.asarray(image).reshape(-1)[:32] for image in images])

    tokenize_shards(shards, tmp_path / "a", small, Maker("mini", square=Square(16)))
    assert sizes == {(16, 16)}
    tokenize_shards(
        shards,
        tmp_path / "b",
        lambda images: small([i.resize((16, 16), Image.Resampling.BICUBIC) for i in images]),
        "mini",
    )
    assert np.array_equal(read_codes(tmp_path / "a").codes, read_codes(tmp_path / "b").codes)


@pytest.mark.parametrize("name", ["a:b", os.fsdecode(b"caf\xe9")])
def test_any_name_of_a_folder_will_do(shards, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    tokenize_shards(shards, name, encode, "mini")
    assert len(tokenize_shards(shards, name, encode, "mini").kept) == 3
    for _ in range(2):  # unpacked, and as it was unpacked
        assert len(read_codes(name)) == 25


def test_each_epoch_draws_one_of_the_captions(tmp_path):
    columns = rows(8)
    columns["metadata"] = pa.array([json.dumps({"captions": [f"{i} cat", f"{i} dog"]}) for i in range(8)])
    write(tmp_path / "0.parquet", columns)
    drawn = [b.captions for b in islice(code_batches(tmp_path, 8, seed=1), 20)]
    assert {text for batch in drawn for text in batch} == {f"{i} {what}" for i in range(8) for what in ("cat", "dog")}
    assert all(sorted(text[0] for text in batch) == list("01234567") for batch in drawn)
    later = [b.captions for b in islice(code_batches(tmp_path, 8, Stride(16), seed=1), 3)]
    assert later == drawn[2:5]
    assert next(code_batches(tmp_path, 8, shuffle=False)).captions == [f"caption {i}" for i in range(8)]


def test_keys_are_those_of_the_shard(tmp_path):
    shard = tmp_path / "0.tar"
    with tarfile.open(shard, "w") as tar:
        for suffix, data in (
            ("png", png_bytes(Image.new("RGB", (64, 64)))),
            ("txt", b"a cat"),
            ("json", b'{"key": 7}'),
        ):
            (member := tarfile.TarInfo(f"0.{suffix}")).size = len(data)
            tar.addfile(member, BytesIO(data))
    tokenize_shards(shard, tmp_path / "codes", encode, "mini")
    stored = read_codes(tmp_path / "codes")
    assert (stored.keys[0], stored.metadata[0]["key"]) == ("0", 7)


def test_linked_folders_of_codes_are_named(shards, tmp_path):
    tokenize_shards(shards, tmp_path / "codes", encode, "mini")
    (tmp_path / "codes" / "more").symlink_to(tmp_path, target_is_directory=True)
    with pytest.warns(SeedTokWarning, match="more is a link to a folder, and is left out"):
        assert len(read_codes(tmp_path / "codes")) == 25


def test_a_shard_without_samples_has_no_codes(shards, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    (tmp_path / "0.parquet").touch()
    report = tokenize_shard(tmp_path / "0.tar", tmp_path, StubEncoder(), 4, True)
    assert (report.written, report.images, report.skipped) == ((), 0, ())
    assert not (tmp_path / "0.parquet").exists()
    (tmp_path / "0.tar").write_bytes(b"")
    report = tokenize_shard(tmp_path / "0.tar", tmp_path, StubEncoder(), 4, False)
    assert [reason for _, _, reason in report.skipped] == ["the shard ends early, after 0 samples"]
    assert (tmp_path / "0.skipped.jsonl").exists()


# ---------------------------------------------------------------- by another encoder


def test_codes_of_another_encoder_or_dtype_are_not_gone_on_with(shards, tmp_path):
    maker = Maker("mini", "one", "float32")
    tokenize_shards(shards, tmp_path, encode, maker)
    found = origin_of(tmp_path / "00000.parquet")
    assert (found.codebook, found.encoder, found.dtype) == ("mini", "one", "float32")
    stored = read_codes(tmp_path, "mini")
    assert (stored.tokenizer, stored.encoder, next(code_batches(tmp_path, 2)).encoder) == ("mini", "one", "one")
    for other, problem in (
        (
            Maker("mini", "two", "float32"),
            "was begun with encoder one, and this one is two, .* or replace it with --over",
        ),
        (
            Maker("mini", "one", "bfloat16"),
            "was begun in float32, and this is bfloat16: go on with --dtype float32, or",
        ),
    ):
        with pytest.raises(DataError, match=problem):
            tokenize_shards(shards, tmp_path, encode, other)
    assert len(tokenize_shards(shards, tmp_path, encode, maker).kept) == 3
    assert len(tokenize_shards(shards, tmp_path, encode, "mini").kept) == 3
    tokenize_shards(shards / "00000.tar", tmp_path, encode, Maker("mini", "two", "float32"), overwrite=True)
    with pytest.raises(DataError, match="codes of several tokenizers"):
        read_codes(tmp_path)


@torch.no_grad()
def test_command_does_not_go_on_with_a_fine_tuned_encoder(cli, shards, tmp_path, tiny_tokenizer):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    tokenizer.encode_head[0].weight.mul_(1.01)
    tokenizer.save_pretrained(tmp_path / "tuned")
    options = ("--out", tmp_path / "codes", "--model")
    assert cli("tokenize", shards, *options, tiny_tokenizer)[0] == 0
    assert read_codes(tmp_path / "codes").encoder == SeedTokenizer.from_pretrained(tiny_tokenizer).encoder_fingerprint
    code, _, error = cli("tokenize", shards, *options, tmp_path / "tuned")
    assert (code, error.count("\n")) == (2, 1)
    assert "with other weights: go on with that one, or replace it with --overwrite" in error
    code, _, error = cli("tokenize", shards, *options, tiny_tokenizer, "--dtype", "bfloat16")
    assert (code, error.count("\n")) == (2, 1)
    assert "was begun in float32, and this is bfloat16" in error


def test_files_that_do_not_name_their_encoder_are_kept(shards, tmp_path):
    tokenize_shards(shards, tmp_path, encode, "mini")
    assert len(tokenize_shards(shards, tmp_path, encode, Maker("mini", "one", "float32")).kept) == 3
    assert read_codes(tmp_path).encoder == ""
    assert len(read_codes(tmp_path, "mini", encoder="one")) == 25


def test_codes_of_another_encoder_are_refused_where_one_is_expected(shards, tmp_path):
    tokenize_shards(shards, tmp_path, encode, Maker("mini", "one", "float32"))
    assert read_codes(tmp_path, "mini", encoder="one").encoder == "one"
    with pytest.raises(DataError, match=r"00000\.parquet has codes of another encoder, with the same codebook"):
        read_codes(tmp_path, "mini", encoder="other")


def test_codes_of_shards_that_are_gone_are_named(shards, tmp_path):
    (tmp_path / "shards").mkdir()
    for path in shards.glob("*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path / "shards" / path.name)
    tokenize_shards(tmp_path / "shards", tmp_path / "codes", encode, "mini")
    for number in (1, 2):
        (tmp_path / "shards" / f"0000{number}.tar").unlink()
    with pytest.warns(SeedTokWarning, match=r"00001\.parquet and 1 more: of no shard in .*; remove them if"):
        tokenize_shards(tmp_path / "shards", tmp_path / "codes", encode, "mini")
    tokenize_shards(tmp_path / "shards" / "00000.tar", tmp_path / "codes", encode, "mini", overwrite=True)  # one alone


# ---------------------------------------------------------------- one shard in the name of another


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others") / "train"
    write_scene_shards(folder, "train", 25, size=64, seed=1, shard_size=10)
    return folder


def test_another_shard_of_the_same_name_is_never_there_already(shards, others, tmp_path):
    tokenize_shards(shards, tmp_path, encode, "mini")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=r"00000.parquet has codes of another shard than .*00000.tar: .*--overwrite"):
        tokenize_shards(others, tmp_path, encode, "mini")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    report = tokenize_shards(others, tmp_path, encode, "mini", overwrite=True)
    assert (len(report.written), len(report.kept)) == (3, 0)
    captions = [sample.caption for sample in islice(ShardSamples(others, shuffle=False), 25)]
    assert list(read_codes(tmp_path).captions) == captions
    again = tokenize_shards(others, tmp_path, encode, "mini", overwrite=True)
    assert (len(again.written), len(again.kept)) == (0, 3)


def test_a_copy_of_a_shard_is_the_same_shard(shards, tmp_path):
    tokenize_shards(shards, tmp_path / "codes", encode, "mini")
    (tmp_path / "moved").mkdir()
    for path in shards.glob("*.tar"):
        (tmp_path / "moved" / path.name).write_bytes(path.read_bytes())
    assert len(tokenize_shards(tmp_path / "moved", tmp_path / "codes", encode, "mini").kept) == 3


def test_overwrite_replaces_codes_alone(shards, tmp_path):
    pq.write_table(pa.table({"mine": [1, 2]}), tmp_path / "00001.parquet")
    with pytest.raises(DataError, match=r"00001\.parquet exists and does not say"):
        tokenize_shards(shards, tmp_path, encode, "mini", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["00001.parquet"]


def test_files_that_do_not_name_their_shard_are_read_but_not_trusted(shards, tmp_path):
    write(tmp_path / "00000.parquet", rows(25))
    assert len(read_codes(tmp_path, "mini")) == 25
    with pytest.raises(DataError, match="does not say which shard it is of"):
        tokenize_shards(shards, tmp_path, encode, "mini")


def test_command_refuses_another_shard(cli, shards, others, tmp_path, tiny_tokenizer):
    options = ("--out", tmp_path / "codes", "--model", tiny_tokenizer)
    assert cli("tokenize", shards, *options)[0] == 0
    code, out, error = cli("tokenize", others, *options)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "another shard" in error
    assert "0 existed before" in cli("tokenize", others, *options, "--overwrite")[1]
    assert "3 existed before" in cli("tokenize", others, *options)[1]
    assert read_codes(tmp_path / "codes").tokenizer == SeedTokenizer.from_pretrained(tiny_tokenizer).codebook_id


# ---------------------------------------------------------------- bad samples


def damaged(folder: Path, shard: str, number: int) -> None:
    """Overwrites the picture of a sample."""
    path = folder / shard
    (start, size) = index_samples(path)[number].image
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)


def test_bad_samples_are_left_out_and_listed(cli, tmp_path, tiny_tokenizer):
    folder = tmp_path / "shards"
    write_scene_shards(folder, "train", 25, size=64, shard_size=10)
    damaged(folder, "00000.tar", 3)
    damaged(folder, "00001.tar", 0)
    with pytest.warns(SeedTokWarning) as caught:
        report = tokenize_shards(folder, tmp_path / "codes", encode, "mini")
    messages = [str(warning.message) for warning in caught if warning.category is SeedTokWarning]
    assert ["sample 000003: " in messages[0], "sample 000010: " in messages[1]] == [True, True]
    assert (report.images, len(report.written), len(report.skipped)) == (23, 3, 2)
    assert list(read_codes(tmp_path / "codes").keys)[2:4] == ["000002", "000004"]
    lists = sorted(path.name for path in (tmp_path / "codes").glob("*.jsonl"))
    assert lists == ["00000.skipped.jsonl", "00001.skipped.jsonl"]
    assert json.loads((tmp_path / "codes" / lists[0]).read_text())["key"] == "000003"
    with pytest.warns(SeedTokWarning):
        again = tokenize_shards(folder, tmp_path / "codes", encode, "mini")
    assert (len(again.kept), again.skipped) == (3, report.skipped)
    strict = SkipLimits(share=0.04, at_least=1)
    for _ in range(2):  # what is kept counts too
        with pytest.warns(SeedTokWarning), pytest.raises(DataError, match="2 of 25 samples cannot be read; at most 0"):
            tokenize_shards(folder, tmp_path / "codes", encode, "mini", limits=strict)
    (tmp_path / "codes" / lists[0]).write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*00000\.skipped\.jsonl"):
        tokenize_shards(folder, tmp_path / "codes", encode, "mini")
    with pytest.raises(DataError, match="1 of 25 samples cannot be read; at most 0 of all may be bad"):
        tokenize_shards(folder, tmp_path / "strict", encode, "mini", limits=SkipLimits(share=0))
    code, out, error = cli("tokenize", folder, "--out", tmp_path / "command", "--model", tiny_tokenizer)
    assert code == 0
    assert "23 images in 3 files" in out
    assert "2 skipped: listed in" in out
    assert error.count("warning: skipped: ") == 2
    code, _, error = cli("tokenize", folder, "--out", tmp_path / "other", "--model", tiny_tokenizer, "--bad-share", 0)
    assert code == 2
    assert "1 of 25 samples cannot be read" in error


def shard_of(path: Path, captions: list[str | None]) -> None:
    """Pictures, some of which have a caption."""
    with tarfile.open(path, "w") as tar:
        for number, caption in enumerate(captions):
            picture = png_bytes(Image.new("RGB", (8, 8), (number, 0, 0)))
            for suffix, data in (("png", picture), ("cls", b"7"), ("txt", caption and caption.encode())):
                if data is not None:
                    (member := tarfile.TarInfo(f"{number}.{suffix}")).size = len(data)
                    tar.addfile(member, BytesIO(data))


@pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")
def test_images_without_captions_are_encoded_where_none_is_needed(cli, tmp_path, tiny_tokenizer):
    (tmp_path / "shards").mkdir()
    shard_of(tmp_path / "shards/0.tar", ["a cat", None, "a dog", None])
    run = ("tokenize", tmp_path / "shards", "--out", tmp_path / "codes", "--model", tiny_tokenizer)
    code, out, _ = cli(*run)
    assert code == 0
    assert "2 images in 1 files" in out
    assert "--no-captions` needs none" in out
    code, out, error = cli(*run, "--no-captions")  # what lacks some is not complete
    assert (code, error) == (0, "")
    assert out.startswith("4 images in 1 files")
    assert list(read_codes(tmp_path / "codes").captions) == ["a cat", "", "a dog", ""]
    assert "1 existed before" in cli(*run, "--no-captions")[1]
    code, _, error = cli(*run[:3], tmp_path / "strict", *run[4:], "--bad-share", 0)
    assert code == 2
    assert "repair the shards, or allow more; `seedtok tokenize --no-captions` needs none" in error


def test_training_leaves_out_codes_without_captions(tmp_path):
    limits = SkipLimits(needs_caption=False)
    for name, captions in (("some", ["a cat", None, "a dog", None]), ("none", [None, None])):
        shard_of(tmp_path / f"{name}.tar", captions)
        tokenize_shards(tmp_path / f"{name}.tar", tmp_path / name, encode, "mini", limits=limits)
    with pytest.warns(SeedTokWarning, match="2 of 4 images have no caption, and are left out of training"):
        batch = next(code_batches(tmp_path / "some", 4))
    assert set(batch.captions) == {"a cat", "a dog"}
    with pytest.raises(DataError, match="none of its 2 images has a caption, which training needs"):
        next(code_batches(tmp_path / "none", 4))


def test_counts_that_are_too_low_are_an_error_without_captions_too(tmp_path):
    shard_of(tmp_path / "0.tar", [None] * 4)
    (tmp_path / "0_stats.json").write_text('{"successes": 2}')
    with pytest.raises(DataError, match=r"holds 4 samples, and 0_stats.json says 2"):
        tokenize_shards(tmp_path, tmp_path / "codes", encode, "mini", limits=SkipLimits(needs_caption=False))


@pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")
def test_several_threads_read_what_one_does(tmp_path):
    folder = tmp_path / "shards"
    write_scene_shards(folder, "train", 25, size=64, shard_size=10)
    damaged(folder, "00000.tar", 3)
    damaged(folder, "00002.tar", 4)
    (folder / "00001_stats.json").write_text('{"successes": 12}')
    runs = [
        tokenize_shards(folder, tmp_path / str(threads), encode, Maker("mini", square=Square(32), threads=threads), 4)
        for threads in (1, 3)
    ]
    assert runs[0].images == 23
    assert (runs[0].images, runs[0].skipped) == (runs[1].images, runs[1].skipped)
    one, three = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("1", "3"))
    assert one == three
    with pytest.raises(DataError, match=r"at most 0 of all may be bad; the last: .*sample 000003"):
        tokenize_shards(folder, tmp_path / "x", encode, Maker("mini", threads=3), limits=SkipLimits(share=0))


@pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")
def test_a_shard_of_which_nothing_is_left_has_no_file(tmp_path):
    write_scene_shards(tmp_path / "shards", "train", 5, size=64, shard_size=3)
    for number in (0, 1):
        damaged(tmp_path / "shards", "00001.tar", number)
    report = tokenize_shards(tmp_path / "shards", tmp_path / "codes", encode, "mini")
    assert report.images == 3
    assert sorted(path.name for path in (tmp_path / "codes").iterdir()) == ["00000.parquet", "00001.skipped.jsonl"]


def test_codes_that_a_crash_has_emptied_can_be_replaced(tmp_path):
    write_scene_shards(tmp_path / "shards", "train", 3, size=64, shard_size=3)
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "00000.parquet").touch()
    with pytest.raises(DataError, match=r"not a file of codes: .*; remove it, or replace it with --overwrite"):
        tokenize_shards(tmp_path / "shards", tmp_path / "codes", encode, "mini")
    assert tokenize_shards(tmp_path / "shards", tmp_path / "codes", encode, "mini", overwrite=True).images == 3


# ---------------------------------------------------------------- by memory map


def rows(count: int, width: int = 32) -> dict[str, pa.Array]:
    """The columns of a file of codes, in other types than `tokenize_shards` writes."""
    codes = np.arange(count * width).reshape(count, width) % 8192
    return {
        "key": pa.array([f"{i:05}" for i in range(count)], pa.large_string()),
        "caption": pa.array([f"caption {i}" for i in range(count)]),
        "codes": pa.array(codes.tolist(), pa.list_(pa.int64())),
        "metadata": pa.array([json.dumps({"number": i}) for i in range(count)]),
    }


def write(path: Path, columns: dict[str, pa.Array], tokenizer: str = "mini") -> None:
    table = pa.table(columns).replace_schema_metadata({b"seedtok.tokenizer": tokenizer.encode()})
    pq.write_table(table, path)


def test_rows_over_many_batches_and_files(tmp_path):
    for number, count in enumerate((9000, 1, 20_000)):
        write(tmp_path / f"{number}.parquet", rows(count, width=4))
    stored = read_codes(tmp_path)
    assert isinstance(stored.codes, np.memmap)
    assert stored.codes.shape == (29_001, 4)
    expected = [i for count in (9000, 1, 20_000) for i in range(count)]
    assert [record["number"] for record in stored.metadata] == expected
    for row in (0, 8999, 9000, 9001, 16_383, 16_384, 29_000, -1):
        number = expected[row]
        assert (stored.keys[row], stored.captions[row]) == (f"{number:05}", f"caption {number}")
        assert stored.metadata[row] == {"number": number}
        assert stored.codes[row].tolist() == [(number * 4 + i) % 8192 for i in range(4)]
    assert stored.captions[8999:9002] == ["caption 8999", "caption 0", "caption 0"]
    with pytest.raises(IndexError):
        stored.keys[29_001]
    batch = next(code_batches(tmp_path, 3, Stride(8999), shuffle=False))
    assert batch.captions == ["caption 8999", "caption 0", "caption 0"]
    order = np.random.default_rng([11, 4, 0]).permutation(29_001)[:5]
    assert next(code_batches(tmp_path, 5, seed=4)).captions == [f"caption {expected[i]}" for i in order]


def test_what_is_unpacked_is_used_again_until_the_files_change(tmp_path, monkeypatch):
    write(tmp_path / "0.parquet", rows(10))
    read_codes(tmp_path)
    there = sorted((tmp_path / ".mapped").iterdir())
    assert [path.suffix for path in there] == [".arrow", ".npy"]
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", None)  # which would be an error
        assert len(read_codes(tmp_path)) == 10
    there[0].write_bytes(b"broken")
    assert len(read_codes(tmp_path)) == 10
    write(tmp_path / "0.parquet", rows(12))
    assert list(read_codes(tmp_path).keys) == [f"{i:05}" for i in range(12)]
    assert len(list((tmp_path / ".mapped").iterdir())) == 2  # the old ones are gone
    assert len(read_codes(tmp_path / "0.parquet")) == 12


def test_rows_that_another_process_unpacked_meanwhile_stay(tmp_path, monkeypatch):
    write(tmp_path / "0.parquet", rows(10))
    other = read_codes(tmp_path)
    kept = {path: path.stat().st_ino for path in (tmp_path / ".mapped").iterdir()}
    looks = []

    def missing_at_first(path: Path):
        looks.append(path)
        if len(looks) <= 2:  # beside the files and in the cache, before it unpacks
            raise FileNotFoundError(path)
        return opened(path)

    opened = mapped._opened
    monkeypatch.setattr(mapped, "_opened", missing_at_first)
    assert list(read_codes(tmp_path).keys) == list(other.keys)
    assert {path: path.stat().st_ino for path in (tmp_path / ".mapped").iterdir()} == kept


def test_unpacked_rows_that_came_in_an_archive_are_not_believed(tmp_path):
    (sent := tmp_path / "sent").mkdir()
    write(sent / "0.parquet", rows(10))
    read_codes(sent)
    texts = pa.table({name: ["forged"] * 10 for name in ("key", "caption", "metadata")})
    [path] = (sent / ".mapped").glob("*.arrow")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, texts.schema) as writer:
        writer.write_table(texts)
    assert set(read_codes(sent).captions) == {"forged"}
    shutil.copytree(sent, tmp_path / "received")  # with the times of the files
    assert read_codes(tmp_path / "received").captions[0] == "caption 0"


@pytest.mark.parametrize("codes", [np.full((10, 32), 0.5), np.zeros(10, np.uint16), np.zeros((9, 32), np.uint16)])
def test_unpacked_rows_of_another_form_are_unpacked_again(tmp_path, codes):
    write(tmp_path / "0.parquet", rows(10))
    expected = read_codes(tmp_path).codes.copy()
    [path] = (tmp_path / ".mapped").glob("*.npy")
    path.unlink()
    np.save(path, codes)
    assert np.array_equal(read_codes(tmp_path).codes, expected)


def test_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    (tmp_path / "codes").mkdir()
    write(tmp_path / "codes" / "0.parquet", rows(10))
    (tmp_path / "codes" / ".mapped").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(read_codes(tmp_path / "codes")) == 10
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1
    assert len(read_codes(tmp_path / "codes")) == 10
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "codes" / ".mapped"))
    with pytest.raises(DataError, match="cannot unpack the codes of"):
        read_codes(tmp_path / "codes")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """200,000 rows, which are 100 MB and more as Python objects, in a process of its own."""
    count = 200_000
    columns = {
        "key": pa.array([f"{i:09}" for i in range(count)]),
        "caption": pa.array([f"a caption of ten words for the picture number {i}" for i in range(count)]),
        "codes": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * 32, np.uint16)), 32),
        "metadata": pa.array([json.dumps({"key": i, "url": f"https://example.org/{i}.jpg"}) for i in range(count)]),
    }
    write(tmp_path / "0.parquet", columns)
    program = (
        "import sys, re, torch; from itertools import islice; from seedtok.data.code_batches import code_batches\n"
        "def private(): return int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "import seedtok.data.codes, pyarrow.compute; before = private()\n"
        "for _ in islice(code_batches(sys.argv[1], 256), 100): pass\n"
        "print((private() - before) // 1024)"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 40


# ---------------------------------------------------------------- files of other kinds

WRONG = {
    "a column too few": (lambda c: c.pop("metadata"), "no single column 'metadata'; it has key, caption, codes"),
    "keys as numbers": (lambda c: c.update(key=pa.array(range(4))), "'key' is int64, not text"),
    "captions as lists": (lambda c: c.update(caption=pa.array([["a"]] * 4)), "'caption' is list"),
    "codes as text": (lambda c: c.update(codes=pa.array(["1 2"] * 4)), "'codes' is string, not lists of integers"),
    "codes as floats": (lambda c: c.update(codes=pa.array([[0.5] * 32] * 4)), "not lists of integers"),
    "codes of lists": (lambda c: c.update(codes=pa.array([[[1]]] * 4)), "not lists of integers"),
    "ragged": (lambda c: c.update(codes=pa.array([[1, 2], [1], [1], []])), "rows of 0 and 1 and 2 codes"),
    "empty rows": (lambda c: c.update(codes=pa.array([[]] * 4, pa.list_(pa.int64()))), "rows of 0 codes"),
    "no codes in a row": (lambda c: c.update(codes=pa.array([[1], None, [1], [1]])), "a row has no codes"),
    "no code in a place": (lambda c: c.update(codes=pa.array([[1], [None], [1], [1]])), "a row has no codes"),
    "codes below 0": (lambda c: c.update(codes=pa.array([[1], [-1], [1], [1]])), "codes from -1 to 1"),
    "codes too large": (lambda c: c.update(codes=pa.array([[1], [70_000], [1], [1]])), "expected 0 to 65535"),
    "no caption": (lambda c: c.update(caption=pa.array(["a", None, "b", "c"])), "a row has no caption"),
    "not UTF-8": (
        lambda c: c.update(caption=pa.array([b"caf\xe9"] * 4).view(pa.string())), "not a file of codes: .*UTF"
    ),
    "metadata as structs": (lambda c: c.update(metadata=pa.array([{"a": 1}] * 4)), "'metadata' is struct"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_files_of_another_kind_are_refused_in_a_line(tmp_path, kind):
    change, words = WRONG[kind]
    columns = rows(4)
    change(columns)
    write(tmp_path / "0.parquet", columns)
    with pytest.raises(DataError, match=words) as caught:
        read_codes(tmp_path)
    assert "\n" not in str(caught.value)
    assert "0.parquet" in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["0.parquet"]


def test_more_that_is_refused(tmp_path):
    write(tmp_path / "0.parquet", {name: column.slice(0, 0) for name, column in rows(4).items()})
    with pytest.raises(DataError, match="have no rows"):
        read_codes(tmp_path)
    write(tmp_path / "1.parquet", rows(4, width=8))
    write(tmp_path / "2.parquet", rows(4, width=9))
    with pytest.raises(DataError, match=r"2\.parquet has 9 codes in a row, and .*1\.parquet has 8"):
        read_codes(tmp_path)
    write(tmp_path / "2.parquet", rows(4, width=8), tokenizer="other")
    with pytest.raises(DataError, match="several tokenizers"):
        read_codes(tmp_path)
    write(tmp_path / "2.parquet", rows(4, width=8) | {"metadata": pa.array(["{", "[1]", "{}", "{}"])})
    stored = read_codes(tmp_path)
    for row in (4, 5):
        with pytest.raises(DataError, match="is not a JSON object"):
            stored.metadata[row]
    assert stored.metadata[6] == {}
    with pytest.raises(DataError, match="no such file"):
        read_codes(tmp_path / "none.parquet")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "9.parquet")
        with pytest.raises(DataError, match=r"9\.parquet is not a file of codes: not a file"):
            read_codes(tmp_path)


def test_broken_anywhere(tmp_path):
    """A file cut short or with other bytes is refused, or read; never another error."""
    write(tmp_path / "whole.parquet", rows(50))
    whole = (tmp_path / "whole.parquet").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "0.parquet"
    for trial in range(60):
        data = bytearray(whole[: rng.integers(len(whole))] if trial % 3 == 0 else whole)
        for at in rng.integers(0, len(data), 4 if trial % 3 else 0):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        with suppress(DataError):
            stored = read_codes(path)
            list(stored.keys)
            list(stored.metadata)
