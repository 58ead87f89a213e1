"""`seedtok export`: a SEED language model for transformers, without a line of Python."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.seed import SeedTokenizer


@pytest.fixture(scope="module")
def lm(bases: dict[str, Path], seed: SeedTokenizer) -> SeedLM:
    torch.manual_seed(1)
    return SeedLM.build(bases["opt"], seed)


@pytest.fixture(scope="module")
def folder(lm: SeedLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "lm"
    lm.save_pretrained(folder, standalone=True)
    return folder


def test_the_folder_draws_in_transformers_what_the_model_draws(cli: Callable, lm: SeedLM, folder: Path, tmp_path: Path):
    out = tmp_path / "auto"
    for _ in range(2):  # an earlier one is replaced
        assert cli("export", "--model", folder, "--out", out)[0] == 0
    model, processor = AutoModelForMultimodalLM.from_pretrained(out), AutoProcessor.from_pretrained(out)
    ids = model.generate(**processor(text="Generate an image a fox"), generation_mode="image")
    assert (ids - model.config.seedtok["layout"]["first_code"] == lm.draw_codes("a fox")).all()


def test_the_plain_folder_is_a_causal_lm(cli: Callable, folder: Path, tmp_path: Path):
    code, output, _ = cli("export", "--model", folder, "--plain", "--out", tmp_path / "plain")
    assert (code, output) == (0, f"written: {tmp_path / 'plain'}, for AutoModelForCausalLM\n")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "plain").config.model_type == "opt"


def test_a_folder_of_something_else_is_left_alone(cli: Callable, folder: Path, tmp_path: Path):
    out = tmp_path / "auto"
    cli("export", "--model", folder, "--out", out)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for options in (("--out", tmp_path / "notes"), ("--plain", "--out", out), ("--out", folder)):
        code, _, errors = cli("export", "--model", folder, *options)
        assert code == 2
        assert errors.startswith(f"error: {options[-1]} is not empty and holds no language model exported with")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]
