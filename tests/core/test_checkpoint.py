"""A checkpoint's folder: written among other files, read strictly, refused where it is of another kind."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, load_model, read_config, write_checkpoint
from seedtok.core.errors import CheckpointError
from seedtok.core.kinds import EMBEDDER, JUDGE, holds_checkpoint

OURS = {"config.json": '{"format": "seedtok.lm"}', "visual.safetensors": "v"}


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def found(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- among other files


def test_other_files_stay_and_ours_are_replaced(tmp_path):
    mine = {"thesis.txt": "years", "adapter/notes.md": "n", "data/rows.csv": "1", ".env": "x", "other.safetensors": "o"}
    put(tmp_path, mine | {"visual.safetensors": "old"})
    with checkpoint_folder(tmp_path) as new:
        put(new, OURS | {"adapter/adapter_config.json": "{}"})
        assert found(tmp_path)["visual.safetensors"] == "old"  # until all is written
    assert found(tmp_path) == mine | OURS | {"adapter/adapter_config.json": "{}"}


def test_the_configuration_comes_last(tmp_path, monkeypatch):
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
    with checkpoint_folder(tmp_path / "new") as new:
        put(new, {**OURS, "base/model.safetensors": "", "base/config.json": "", "z.json": ""})
    assert moved[-1] == "config.json"
    assert len(moved) == 5


def test_what_an_older_save_left_does_not_mislead(tmp_path):
    older = {"adapter/adapter_config.json": "{}", "adapter/adapter_model.safetensors": "a", "adapter/mine.txt": "m"}
    older |= {"base/model.safetensors": "one file", "text_tokenizer/vocab.txt": "v", "mine.safetensors": "m"}
    put(tmp_path, OURS | older)
    parts = {"base/model-00001-of-00002.safetensors": "1", "base/model-00002-of-00002.safetensors": "2"}
    with checkpoint_folder(tmp_path) as new:
        put(new, OURS | parts)
    assert found(tmp_path) == OURS | parts | {"adapter/mine.txt": "m", "mine.safetensors": "m"}
    assert not (tmp_path / "text_tokenizer").exists()


def test_what_the_new_configuration_names_stays(tmp_path):
    put(tmp_path, OURS | {"base/model.safetensors": "b", "adapter/vocab.txt": "a"})
    with checkpoint_folder(tmp_path) as new:
        put(new, {"config.json": '{"format": "seedtok.lm", "base": "base", "texts": "./adapter"}'})
    assert {"base/model.safetensors", "adapter/vocab.txt"} <= found(tmp_path).keys()


def test_an_export_leaves_nothing_of_one_on_another_base(tmp_path):
    """A loader prefers model.safetensors to the sharded weights of the new one."""
    old = json.dumps({"model_type": "opt", "seedtok": {"layout": {}}})
    put(tmp_path, {"config.json": old, "model.safetensors": "old", "vocab.json": "old", "notes.txt": "mine"})
    new = json.dumps({"model_type": "llama", "seedtok": {"layout": {}}})
    parts = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
    with checkpoint_folder(tmp_path) as folder:
        put(folder, {"config.json": new, "tokenizer.model": "new", **dict.fromkeys(parts, "new")})
    assert set(found(tmp_path)) == {"config.json", "tokenizer.model", "notes.txt", *parts}


def test_files_of_a_strangers_checkpoint_stay(tmp_path):
    theirs = {"config.json": '{"model_type": "llama"}', "tokenizer.json": "t", "adapter/adapter_config.json": "a"}
    put(tmp_path, theirs)
    with checkpoint_folder(tmp_path) as new:
        put(new, OURS)
    assert found(tmp_path) == theirs | OURS


def test_a_failure_leaves_all_as_it_was(tmp_path):
    put(tmp_path / "old", {"config.json": "1", "mine": "m"})
    for folder in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(TypeError), checkpoint_folder(folder) as new:
            put(new, OURS | {"then": None})  # type: ignore[dict-item]
    assert found(tmp_path) == {"old/config.json": "1", "old/mine": "m"}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("blocked", [{"visual.safetensors/mine": "m"}, {"adapter": "a file"}])
def test_a_folder_in_the_way_of_a_file_is_refused_before_anything_moves(tmp_path, blocked):
    before = blocked | {"config.json": "1"}
    put(tmp_path, before)
    with pytest.raises(CheckpointError, match="is to be written"), checkpoint_folder(tmp_path) as new:
        put(new, OURS | {"adapter/adapter_config.json": "{}"})
    assert found(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_linked_folder_and_a_linked_file(tmp_path):
    put(tmp_path, {"real/mine": "m", "blob": "shared"})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "config.json").symlink_to(tmp_path / "blob")
    with checkpoint_folder(tmp_path / "link") as new:
        put(new, OURS)
    assert (tmp_path / "blob").read_text() == "shared"
    assert found(tmp_path / "real") == OURS | {"mine": "m"}


# ---------------------------------------------------------------- a model's configuration and tensors


class Small(nn.Module):
    """Two linear layers, with one weight tied where `tied`."""

    def __init__(self, width: int, tied: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.register_buffer("count", torch.tensor(3))
        if tied:
            self.second.weight = self.first.weight


def saved(folder: Path, model: nn.Module, version: int = 2) -> Path:
    with checkpoint_folder(folder) as new:
        write_checkpoint(new, JUDGE, version, {"width": 4}, model.state_dict())
    return folder


def load(folder: Path) -> Small:
    config = read_config(folder, JUDGE, 2)
    return load_model(lambda: Small(config["width"]), config, folder / WEIGHTS)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_comes_back_as_it_was_saved(tmp_path, tied):
    model = Small(4, tied)
    folder = saved(tmp_path / "judge", model)
    assert json.loads((folder / "config.json").read_text()) == {"format": JUDGE, "version": 2, "width": 4}
    assert read_config(folder, JUDGE, 2) == {"width": 4}
    assert holds_checkpoint(folder)
    again = load(folder)
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_dtypes_by_name_and_tensors_from_elsewhere(tmp_path):
    model = Small(4)
    folder = saved(tmp_path / "judge", model)
    tensors = load_file(folder / WEIGHTS)
    bias = tensors.pop("first.bias")
    save_file(tensors, folder / WEIGHTS)
    dtypes = {"": torch.bfloat16, "second.": torch.float64}
    again = load_model(lambda: Small(4), {}, folder / WEIGHTS, dtypes, {"first.bias": bias})
    assert torch.equal(again.first.bias, bias.bfloat16())
    assert torch.equal(again.second.weight, model.second.weight.double())
    assert again.count.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("first.bias"), "lacks tensor 'first.bias'"),
        (lambda t: t.update(more=torch.zeros(1)), "has an extra tensor 'more'"),
        (lambda t: t.update({"first.bias": torch.zeros(5)}), r"'first.bias' is \(5,\); expected \(4,\)"),
        (lambda t: t["second.bias"].fill_(float("nan")), "'second.bias' holds NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    folder = saved(tmp_path / "judge", Small(4))
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_another_kind_another_version_and_no_checkpoint(tmp_path):
    folder = saved(tmp_path / "judge", Small(4))
    with pytest.raises(CheckpointError, match="is a scene judge, not an embedder of stage I"):
        read_config(folder, EMBEDDER, 2)
    with pytest.raises(CheckpointError, match="is of version 2; this release reads version 1"):
        read_config(folder, JUDGE, 1)
    (folder / "config.json").write_text(json.dumps({"format": JUDGE}))  # as before versions were written
    assert read_config(folder, JUDGE, 1) == {}
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a scene judge"):
        read_config(folder, JUDGE, 1)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_config(tmp_path / "nothing", JUDGE, 1)


def test_a_checkpoint_is_known_by_its_format(tmp_path):
    assert not holds_checkpoint(tmp_path)
    for text in ("{", "[]", '{"format": 3}', '{"model_type": "opt"}', "[" * 100_000):
        put(tmp_path, {"config.json": text})
        assert not holds_checkpoint(tmp_path)
    put(tmp_path, {"config.json": json.dumps({"format": "seedtok.tokenizer"})})
    assert holds_checkpoint(tmp_path)
