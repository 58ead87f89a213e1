"""`seedtok export`: a SEED language model for transformers, without a line of Python."""

from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

from seedtok.lm.seed_lm import SeedLM


def test_the_folder_draws_in_transformers_what_the_model_draws(cli: Callable, tiny_lm: Path, tmp_path: Path):
    out, lm = tmp_path / "auto", SeedLM.from_pretrained(tiny_lm)
    for _ in range(2):  # an earlier one is replaced
        assert cli("export", "--model", tiny_lm, "--out", out)[0] == 0
    model, processor = AutoModelForMultimodalLM.from_pretrained(out), AutoProcessor.from_pretrained(out)
    ids = model.generate(**processor(text="Generate an image a fox"), generation_mode="image")
    assert (ids - model.config.seedtok["layout"]["first_code"] == lm.draw_codes("a fox")).all()


def test_the_plain_folder_is_a_causal_lm(cli: Callable, tiny_lm: Path, tmp_path: Path):
    code, output, _ = cli("export", "--model", tiny_lm, "--plain", "--out", tmp_path / "plain")
    assert (code, output) == (0, f"written: {tmp_path / 'plain'}, for AutoModelForCausalLM\n")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "plain").config.model_type == "opt"


def test_a_folder_of_something_else_is_left_alone(cli: Callable, tiny_lm: Path, tmp_path: Path):
    out = tmp_path / "auto"
    cli("export", "--model", tiny_lm, "--out", out)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for options in (("--out", tmp_path / "notes"), ("--plain", "--out", out), ("--out", tiny_lm)):
        code, _, errors = cli("export", "--model", tiny_lm, *options)
        assert code == 2
        assert errors.startswith(f"error: {options[-1]} is not empty and holds no language model exported with")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]
