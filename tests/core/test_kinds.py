"""A folder given in the place of another kind is named, with what comes next."""

import json

import pytest
import torch
from safetensors.torch import save_file

from seedtok.core.errors import CheckpointError
from seedtok.core.hub import shipped
from seedtok.core.kinds import kind_of, stored_parts
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer

FOLDERS = {  # of the shipped weights: what each is, and a part of what comes next
    "lm": ("a SEED language model", "caption, ask, draw and chat"),
    "diffusion": ("a diffusion model", "stage.image_decoder="),
    "vision": ("an image encoder", "stage.clip="),
    "opt": ("a language model of transformers", "stage.base="),
    "judge": ("a scene judge", "only the evaluation"),
    "diffusion/vae": ("an autoencoder", "stage.autoencoder="),
}


@pytest.fixture
def embedder(tmp_path):
    """Only the configuration of what stage I gives."""
    folder = tmp_path / "runs" / "stage1" / "final"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"format": "seedtok.embedder", "qformer": {"causal": True}}))
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_no_tokenizer_is_named(name):
    what, then = FOLDERS[name]
    with pytest.raises(CheckpointError) as caught:
        SeedTokenizer.from_pretrained(shipped(name))
    assert f"{shipped(name)} is {what}, not a SEED tokenizer: " in str(caught.value)
    assert then in str(caught.value)


@pytest.mark.parametrize("name", FOLDERS)
def test_info_describes_it(cli, name):
    what, then = FOLDERS[name]
    code, out, _ = cli("info", shipped(name))
    words = " ".join(out.split())
    assert code == 0
    assert f"is {what}" in words
    assert then in words
    record = json.loads(cli("info", shipped(name), "--json")[1])
    assert record["parameters"] == sum(part["parameters"] for part in record["parts"].values()) > 1000


def test_what_a_language_model_has_of_its_own_is_counted():
    parts = stored_parts(shipped("lm"))
    assert {"adapter", "input_projection", "visual_head"} <= set(parts)


def test_stage_ones_result_leads_to_stage_two(cli, embedder, tmp_path):
    for command in (["encode", tmp_path], ["info", embedder]):
        (tmp_path / "picture.png").write_bytes((shipped("vision") / "config.json").read_bytes())
        given = [*command, "--model", embedder] if command[0] == "encode" else command
        code, out, err = cli(*given)
        words = " ".join((out + err).split())
        assert code == (0 if command[0] == "info" else 2)
        assert "is an embedder of stage I" in words
        assert f"seedtok train mini.stage2 --out RUN stage.embedder={embedder}" in words


@pytest.mark.parametrize(
    ("record", "what", "then"),
    [
        ({"format": "seedtok.embedder", "qformer": {"causal": False}}, "an embedder of stage I", "stage.start="),
        ({"format": "seedtok.blip2"}, "a baseline that reads images as vectors", "only the evaluation"),
        ({"model_type": "clip"}, "a CLIP", "stage.clip="),
    ],
)
def test_what_is_not_in_the_package_is_named_too(tmp_path, record, what, then):
    (tmp_path / "config.json").write_text(json.dumps(record))
    kind = kind_of(tmp_path)
    assert kind is not None
    assert kind.name == what
    assert then in kind.next


def test_the_folder_of_a_run_leads_to_its_result(embedder):
    run = embedder.parent
    (run / "config.json").write_text(json.dumps({"recipe": "mini.stage1", "stage": {}}))
    with pytest.raises(CheckpointError, match=r"folder of a training run.*final.*embedder of stage I; train stage II"):
        SeedTokenizer.from_pretrained(run)
    (embedder / "config.json").unlink()
    embedder.rmdir()
    with pytest.raises(CheckpointError, match=r"no result yet.*seedtok train mini.stage1 --out .* --resume"):
        SeedLM.from_pretrained(run)
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(record | {"recipe": "finetuning.stage1"}))
    with pytest.raises(CheckpointError, match="no result yet; the `seedtok finetune` that began it goes on with it"):
        SeedLM.from_pretrained(run)


def test_what_a_strangers_files_say_is_no_command_and_moves_no_cursor(cli, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "mini.stage1; rm x\n\x1b[2J", "stage": {}}))
    kind = kind_of(tmp_path)
    assert kind is not None
    assert "seedtok train 'mini.stage1; rm x\\n\\x1b[2J' --out" in kind.next
    code, out, _ = cli("info", tmp_path)
    assert code == 0
    assert "\x1b" not in out
    save_file({"a\x1b[2J.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"format": "seedtok.embedder"}')
    code, out, _ = cli("info", tmp_path)
    assert "\\x1b[2J" in out
    assert "\x1b" not in out


def test_other_loaders_name_it_too():
    with pytest.raises(CheckpointError, match="is a SEED tokenizer, not a SEED language model"):
        SeedLM.from_pretrained(shipped("tokenizer"))
    with pytest.raises(CheckpointError, match="is a SEED tokenizer, not an embedder of stage I"):
        ImageTextEmbedder.from_pretrained(shipped("tokenizer"))


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"format": 3, "architectures": 7}', '{"format": {}}'])
def test_a_configuration_of_any_other_form_is_of_no_known_kind(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert kind_of(tmp_path) is None


@pytest.mark.parametrize("broken", [b"", b"\xff" * 20, b"\x02" + b"\x00" * 7 + b"[]"])
def test_a_broken_file_is_one_line(tmp_path, cli, broken):
    (tmp_path / "config.json").write_text('{"format": "seedtok.embedder"}')
    (tmp_path / "model.safetensors").write_bytes(broken)
    code, _, err = cli("info", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
