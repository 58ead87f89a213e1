"""Configurations, checkpoints of runs, shards and pictures: whatever they hold, they are read or refused."""

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from fuzz.values import changed, damaged, json_texts, nested, odd, quick, works_or_says_why
from seedtok.core.files import read_json
from seedtok.core.images import load_image
from seedtok.core.records import from_record
from seedtok.data.shards import ShardSamples
from seedtok.data.tars import count_samples, index_samples
from seedtok.mini import recipes as mini
from seedtok.mini.judge import JudgeConfig, SceneJudge
from seedtok.mini.world.scenes import Scene, Thing, caption, render
from seedtok.mini.world.source import scene_of
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder
from seedtok.tokenizer.image_head import ImageHeadConfig
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.training.checkpoints import load_checkpoint, load_optimizer_state
from seedtok.training.config import with_overrides
from seedtok.training.log import drop_lines_from

pytestmark = pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")  # of samples that are skipped


def plain(config: Any) -> Any:
    """A configuration as its JSON is read again."""
    return json.loads(json.dumps(asdict(config)))


# ---------------------------------------------------------------- configurations


@quick(200)
@given(text=json_texts({"a": [1, {"b": None}]}) | st.binary(max_size=30))
def test_json_objects(tmp_path: Path, text: str | bytes):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    with works_or_says_why():
        assert isinstance(read_json(tmp_path / "config.json"), dict)


CONFIGS = [
    EmbedderConfig(),
    SeedConfig(),
    SeedConfig(image_head=ImageHeadConfig(), reverse_qformer=None),
    JudgeConfig(),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
@quick(120)
@given(data=st.data())
def test_configurations(config: Any, data: st.DataObject):
    kind = type(config)
    assert from_record(kind, plain(config), "a model") == config
    record = data.draw(changed(plain(config)) | odd)
    with works_or_says_why():
        made = from_record(kind, record, "a model")
        assert json.dumps(asdict(made))  # finite, and of types that JSON has
        if kind is EmbedderConfig:
            EmbedderConfig.from_dict(record)


def sizes(record: Any) -> list[int]:
    """All integers of a configuration."""
    inner = record.values() if isinstance(record, dict) else record if isinstance(record, list | tuple) else ()
    return [record] if type(record) is int else [size for value in inner for size in sizes(value)]


@quick(60)
@given(data=st.data())
def test_tokenizers(tiny_tokenizer: Path, tmp_path: Path, data: st.DataObject):
    good = json.loads((tiny_tokenizer / "config.json").read_text())
    for path in tiny_tokenizer.iterdir():
        if path.name != "config.json" and not (tmp_path / path.name).exists():
            (tmp_path / path.name).symlink_to(path)
    record = data.draw(changed(good))
    (tmp_path / "config.json").write_text(json.dumps(record))
    with works_or_says_why():
        config = from_record(SeedConfig, {k: v for k, v in record.items() if k not in ("format", "version")}, "one")
        if [1, *sizes(asdict(config))] == sizes(good):  # other sizes are another test's
            SeedTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("reader", [SeedTokenizer, ImageTextEmbedder, SceneJudge])
@quick(60)
@given(
    text=odd.map(json.dumps) | nested | st.sampled_from(["{}", '{"format": "seedtok.judge"}', '{"vision_from": []}'])
)
def test_what_is_no_checkpoint(tmp_path: Path, reader: Any, text: str):
    (tmp_path / "config.json").write_text(text)
    with works_or_says_why():
        reader.from_pretrained(tmp_path)
        raise AssertionError("loaded from nothing")


KEYS = [
    "seed", "data.size", "data.shards", "optimization.lr", "optimization.betas", "optimization.steps", "stage.width",
    "stage", "data", "recipe", "", "stage.width.x", "optimization", "stage.clip", "precision", "a" * 3000,
]  # fmt: skip


@quick(200)
@given(
    key=st.sampled_from(KEYS) | st.text(max_size=9),
    text=odd.map(json.dumps) | nested | st.text(max_size=9),
    equals=st.sampled_from(["=", "=", "=", ""]),
)
def test_overrides(key: str, text: str, equals: str):
    with works_or_says_why():
        with_overrides(mini.stage1(), [key + equals + text])


# ---------------------------------------------------------------- runs

LOG = [{"step": 1, "kind": "train", "loss": 0.5}, {"step": 2, "kind": "validation", "loss": 0.25}]


@quick(60)
@given(lines=st.lists(json_texts(LOG[0]) | json_texts(LOG[1]), max_size=3), tail=st.binary(max_size=5))
def test_logs(tmp_path: Path, lines: list[str], tail: bytes):
    good = "".join(json.dumps(line) + "\n" for line in LOG)
    (tmp_path / "log.jsonl").write_bytes(good.encode() + "\n".join(lines).encode() + b"\n" + tail)
    drop_lines_from(tmp_path / "log.jsonl", 5)
    assert (tmp_path / "log.jsonl").read_text().startswith(good)  # what was right stays


@quick(60)
@given(
    text=json_texts({"step": 4, "samples": 16}),
    name=st.sampled_from(["stage", "stage.0-of-1", "stage.x-of-y", "a.b.c"]),
    data=st.none() | st.binary(max_size=40),
)
def test_checkpoints_of_runs(tmp_path_factory, text: str, name: str, data: bytes | None):
    out = tmp_path_factory.mktemp("run")
    folder = out / "checkpoints" / "00000004"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(text)
    save_file({"w": torch.zeros(2)}, folder / f"{name}.safetensors")
    if data is not None:
        (folder / f"{name}.safetensors").write_bytes(data)
    with works_or_says_why():
        checkpoint = load_checkpoint(out)
        assert checkpoint.step >= 0
        assert set(checkpoint.tensors) == {"stage"} or name == "a.b.c"


@quick(60)
@given(shape=st.lists(st.integers(0, 3), max_size=3), key=st.sampled_from(["weight//exp_avg", "weight", "", "x//step"]))
def test_states_of_optimisers(shape: list[int], key: str):
    module = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    with works_or_says_why():
        load_optimizer_state(optimizer, module, {key: torch.zeros(shape)})


# ---------------------------------------------------------------- shards


def tar_bytes(form: int = tarfile.USTAR_FORMAT) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for key in ("000", "001"):
            for suffix, data in (("png", picture.getvalue()), ("txt", b"a fox"), ("json", b'{"captions": ["a"]}')):
                info = tarfile.TarInfo(key + ("é" * 120 if form != tarfile.USTAR_FORMAT else "") + f".{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


TARS = [tar_bytes(), tar_bytes(tarfile.PAX_FORMAT), tar_bytes(tarfile.GNU_FORMAT)]


@st.composite
def broken_tars(draw: st.DrawFn) -> bytes:
    """Tars with a header changed so that its checksum is right, or with bytes damaged anywhere."""
    data = bytearray(draw(st.sampled_from(TARS)))
    at = 512 * draw(st.integers(0, 8))
    field, size = draw(st.sampled_from([(0, 100), (124, 12), (156, 1), (257, 8), (345, 155), (100, 8), (136, 12)]))
    value = draw(st.binary(max_size=size) | st.sampled_from(
        [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"x", b"g", b"L", b"K", b"S", b"1", b"5"]
    ))[:size]  # fmt: skip
    data[at + field : at + field + len(value)] = value
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return draw(st.just(bytes(data)) | damaged(bytes(data)))


@quick(120)
@given(data=broken_tars() | st.binary(max_size=1200), stats=json_texts({"successes": 2}) | st.none())
def test_shards(tmp_path_factory, data: bytes, stats: str | None):
    folder = tmp_path_factory.mktemp("shards")
    (folder / "0.tar").write_bytes(data)
    if stats is not None:
        (folder / "0_stats.json").write_text(stats)
    with works_or_says_why():
        count_samples(folder / "0.tar")
    with works_or_says_why():
        index_samples(folder / "0.tar")
    with works_or_says_why():
        samples = ShardSamples(folder)
        list(samples.at(range(min(4, samples.epoch_size))))


def test_a_chain_of_long_names_is_refused(tmp_path: Path):
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 0
    (tmp_path / "0.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) * 5000 + bytes(1024))
    with works_or_says_why():
        index_samples(tmp_path / "0.tar")
        raise AssertionError("a chain of names was read")


SCENE = Scene("red", (Thing("fox", "left"), Thing("cake", "right")), (1, 0))


@quick(200)
@given(record=changed(SCENE.to_json()) | odd)
def test_what_is_read_as_a_scene_is_one(record: Any):
    assert Scene.from_json(json.loads(json.dumps(SCENE.to_json()))) == SCENE
    scene = scene_of({"scene": record})
    if scene is not None:
        caption(scene)
        render(scene, 64)


# ---------------------------------------------------------------- pictures


def _pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    found = []
    for form, mode in (("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "L"), ("WEBP", "RGB")):
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, form)
        found.append(buffer.getvalue())
    return found


@quick(300)
@given(data=st.sampled_from(_pictures()).flatmap(damaged) | st.binary(max_size=200))
def test_pictures(data: bytes):
    with works_or_says_why():
        assert load_image(data).mode == "RGB"
