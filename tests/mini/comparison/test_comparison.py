"""Comparisons: rows on equal terms, every measurement of tiny runs, and a question from start to end."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from seedtok.cli.support import check_folder
from seedtok.core.errors import ConfigError
from seedtok.mini.comparison import run as comparison
from seedtok.mini.comparison.made_of import made_of
from seedtok.mini.comparison.measures import MEASURES, Measured, row_of, scores_file
from seedtok.mini.comparison.measures import main as measure
from seedtok.mini.comparison.questions import QUESTIONS
from seedtok.mini.comparison.results import markdown, shown, statistic, write_result
from seedtok.mini.comparison.run import compare, jobs_of
from seedtok.mini.comparison.runs import FOUNDATIONS, RUNS, Terms, part_of, parts_of, seeded
from seedtok.mini.comparison.shipped import place_shipped
from seedtok.mini.identities import identities
from seedtok.mini.parts import check_same, result
from seedtok.mini.reproduction.jobs import Job
from seedtok.mini.reproduction.run import Place, reproduce
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.training.config import RunConfig, with_overrides
from seedtok.training.loop import train
from seedtok.training.runs import write_config
from tiny_runs import RUN, TINY, recipes

ALL_STEPS = Terms()
ROWS = [row for question in QUESTIONS.values() for row in question.rows]


def config_of(run: str, seed: int = 1, terms: Terms = ALL_STEPS) -> RunConfig:
    part = part_of(RUNS[run], seed, terms, smoke=False)
    return with_overrides(part.recipe(), part.overrides(Path("/out"), False))


# ---------------------------------------------------------------- what is declared


def test_rows_are_of_runs_and_measurements_that_there_are():
    for row in ROWS:
        assert set(row.runs) <= set(RUNS)
        assert row.measure in MEASURES
        assert row_of(row.measurement).runs == row.runs
    for question in QUESTIONS.values():
        names = [row.name for row in question.rows]
        assert len(set(names)) == len(names)
    used, left = set[str](), [run for row in ROWS for run in row.runs]
    while left:
        used.add(run := left.pop())
        left += [name for name in RUNS[run].part.inputs.values() if name in RUNS]
    assert used == set(RUNS)


@pytest.mark.parametrize("run", RUNS)
def test_a_run_stands_on_what_is_trained_before_it_and_has_its_seed(run):
    foundations, before = {part.name for part in FOUNDATIONS}, list(RUNS)[: list(RUNS).index(run)]
    assert set(RUNS[run].part.inputs.values()) <= foundations | set(before)
    config = config_of(run, seed=2)
    assert config.seed == 2
    for key, name in RUNS[run].part.inputs.items():
        expected = Path("/out/runs") / (seeded(name, 2) if name in RUNS else name) / "final"
        assert getattr(config.stage, key.removeprefix("stage.")) == expected
    small = part_of(RUNS[run], 2, Terms(), smoke=True)
    assert with_overrides(small.recipe(), small.overrides(Path("/out"), True)).optimization.steps <= 20


@pytest.mark.parametrize("question", ["table1", "table2", "pilot", "order", "codebook"])
def test_rows_of_one_recipe_have_equal_terms(question):
    """Data, batch, rate and steps are the same; of the stage only what the question is about may differ."""
    free = {
        "table1": {"causal", "auxiliary", "embedder", "ema_decay", "kmeans_per_code", "restart_after"},
        "table2": set(),
        "pilot": {"tokens", "rank", "alpha", "dropout"},
        "order": {"tokenizer", "start", "shuffle_codes"},
        "codebook": {"ema_decay", "kmeans_per_code", "restart_after", "normalize"},
    }[question]
    by_recipe: dict[tuple[str, bool], list[RunConfig]] = {}
    for run in {run for row in QUESTIONS[question].rows for run in row.runs}:
        alone = run.endswith("-projection")  # of rates of their own
        by_recipe.setdefault((RUNS[run].part.recipe().recipe, alone), []).append(config_of(run))
    for first, *others in by_recipe.values():
        for other in others:
            assert (other.data, other.optimization, other.seed) == (first.data, first.optimization, first.seed)
            fields = type(first.stage).model_fields
            differing = {name for name in fields if getattr(other.stage, name) != getattr(first.stage, name)}
            assert differing <= free


def test_a_projection_alone_has_ten_times_the_rate_of_lora_and_the_scale_of_all_rates():
    alone, lora = (config_of(f"pilot-seed-{way}", terms=Terms(3, 0.5, 0.25, 0.5)) for way in ("projection", "lora"))
    assert lora.optimization.lr == recipes()["reader"]().optimization.lr / 2
    assert alone.optimization.lr == pytest.approx(10 * lora.optimization.lr)
    assert alone.optimization.min_lr == pytest.approx(10 * lora.optimization.min_lr)
    assert alone.optimization.steps == lora.optimization.steps


def test_table_3_has_equal_steps_data_and_lora():
    readers = [config_of(run) for run in RUNS if run.startswith("read-")]
    first, second = config_of("seed-opt-a"), config_of("seed-opt")
    for reader in readers:
        assert reader.optimization == readers[0].optimization
        assert reader.optimization.steps == first.optimization.steps + second.optimization.steps
        assert reader.optimization.batch_size == first.optimization.batch_size
        assert reader.data == first.data
        lora = tuple(getattr(reader.stage, name) for name in ("rank", "alpha", "dropout"))
        own = tuple(getattr(second.stage, name) for name in ("rank", "alpha", "dropout"))
        assert lora in ((None, 32, 0.05), own)


def test_tokenizers_of_the_pilot_have_the_steps_and_the_codebook_of_seeds():
    seed, others = recipes()["stage2"](), [recipes()[name]() for name in ("vqvae", "beit2")]
    for config in others:
        assert (config.data, config.optimization) == (seed.data, seed.optimization)
        for name in ("codebook_size", "codebook_dim", "ema_decay", "restart_after", "kmeans_per_code"):
            assert getattr(config.stage, name) == getattr(seed.stage, name), name


def test_steps_scale_with_their_warm_up_and_batches_with_what_is_counted_in_them():
    whole, half = (config_of("codebook-ema", terms=t) for t in (Terms(), Terms(3, 0.5, 0.25, 0.5)))
    before, after = whole.optimization, half.optimization
    assert (after.steps, after.warmup_steps) == (before.steps // 2, before.warmup_steps // 2)
    assert after.batch_size == before.batch_size // 4
    assert (after.lr, after.min_lr) == (before.lr / 2, before.min_lr / 2)
    assert half.validate_batches == 4 * whole.validate_batches
    assert half.stage.restart_after == 4 * whole.stage.restart_after
    assert half.stage.ema_decay**4 == pytest.approx(whole.stage.ema_decay)
    published = config_of("codebook-published", terms=Terms(3, 0.5, 0.25))
    assert (published.stage.restart_after, published.stage.ema_decay) == (None, None)


def test_only_what_a_question_needs_is_trained():
    names = [job.name for job in jobs_of(["pilot"], Place(Path("/out")), Terms(seeds=1))]
    assert {"vqvae", "beit2", "stage2", "pilot-seed-lora/seed1"} <= set(names)
    assert not {"judge", "blip2", "instructed", "gill/seed1"} & set(names)
    every = jobs_of(list(QUESTIONS), Place(Path("/out")), Terms())
    assert len({job.name for job in every}) == len({job.makes for job in every}) == len(every)
    known = {job.name for job in every}
    assert all(set(job.needs) <= known for job in every)


def test_what_is_measured_is_not_trained_again(tmp_path):
    place, terms = Place(tmp_path), Terms(seeds=2)
    row = next(row for row in QUESTIONS["codebook"].rows if row.name == "EMA")
    path = scores_file(tmp_path, row.measurement, "test", QUESTIONS["codebook"].count, 1)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    names = {job.name for job in jobs_of(["codebook"], place, terms)}
    assert "codebook-ema/seed1" not in names
    assert {"codebook-ema/seed2", "codebook-l2/seed1", "stage1"} <= names


def test_scores_that_are_kept_are_gone_on_from(tmp_path):
    kept = Path(__file__).parents[3] / "docs" / "comparisons"
    shutil.copytree(kept, out := tmp_path / "copy")
    check_folder(out, lambda path: (path / "reproduction.json").is_file(), "reproduction")
    Place(out).check()
    terms = Terms(3, 0.2, 0.25, shipped=True, precision=json.loads((out / "comparisons.json").read_text())["precision"])
    check_same(out / "comparisons.json", terms.kept())
    names = {job.name for job in jobs_of(["codebook"], Place(out), terms)}
    assert "codebook-restart/seed1" in names
    assert not {"codebook-ema/seed1", "codebook-l2/seed3"} & names


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"settings": {"codebook-ema/seed1": {"optimization.steps": 9}}},
            "optimization.steps=9, which would now be 1200",
        ),
        ({"foundations": {"stage1": "another"}}, "is of runs on another stage1"),
    ],
)
def test_scores_of_other_settings_or_foundations_are_not_mixed_with_new_ones(tmp_path, record, said):
    """Although the run that they are of is gone."""
    place_shipped(tmp_path, ["stage1"])
    terms = Terms(1, 0.2, 0.25, shipped=True, precision="no")
    row = next(row for row in QUESTIONS["codebook"].rows if row.name == "EMA")
    path = scores_file(tmp_path, row.measurement, "test", QUESTIONS["codebook"].count, 1)
    path.parent.mkdir(parents=True)
    part = part_of(RUNS["codebook-ema"], 1, terms, smoke=False)
    (tmp_path / "runs" / part.name).mkdir(parents=True)
    write_config(with_overrides(part.recipe(), part.overrides(tmp_path, smoke=False)), tmp_path / "runs" / part.name)
    kept = made_of(tmp_path, [part.name], parts_of([1]))
    shutil.rmtree(tmp_path / "runs" / part.name)
    assert made_of(tmp_path, [part.name], parts_of([1])) == {"settings": {}, "foundations": {}}
    path.write_text(json.dumps({"scores": {}, **kept}))
    assert part.name not in {job.name for job in jobs_of(["codebook"], Place(tmp_path), terms)}
    path.write_text(json.dumps({"scores": {}, **record}))
    with pytest.raises(ConfigError, match=said):
        jobs_of(["codebook"], Place(tmp_path), terms)


def test_scores_of_a_model_that_has_been_replaced_are_in_no_table(tmp_path):
    path = scores_file(tmp_path, "codebook-codebook-ema", "test", QUESTIONS["codebook"].count, 1)
    path.parent.mkdir(parents=True)
    result(tmp_path, "codebook-ema/seed1").mkdir(parents=True)
    (result(tmp_path, "codebook-ema/seed1") / "config.json").write_text("{}")
    for of, there in ((identities(tmp_path, ["codebook-ema/seed1"]), True), ({"codebook-ema/seed1": "another"}, False)):
        path.write_text(json.dumps({"scores": {"": {"used": 10.0}}, "models": of}))
        assert bool(write_result(tmp_path, "codebook", Terms(seeds=1))["sets"]["test"]["EMA"]) == there


def test_runs_that_are_compared_have_the_precision_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "run_jobs", lambda *_: None)
    for fast in ("bf16", "no"):
        monkeypatch.setattr(comparison, "fast_precision", lambda _, fast=fast: fast)
        compare(["codebook"], Place(tmp_path), print, Terms(seeds=1))
        assert json.loads((tmp_path / "comparisons.json").read_text())["precision"] == "bf16"
    text = (tmp_path / "comparisons" / "codebook.md").read_text()
    assert "trained with products in bfloat16" in text
    assert config_of("codebook-ema", terms=Terms(precision="bf16")).precision == "bf16"


def test_runs_compared_by_an_earlier_version_have_their_own_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "run_jobs", lambda *_: None)
    monkeypatch.setattr(comparison, "fast_precision", lambda _: "bf16")
    kept = Terms(seeds=1).kept()
    (tmp_path / "comparisons.json").write_text(json.dumps({name: kept[name] for name in kept if name != "precision"}))
    part = part_of(RUNS["codebook-ema"], 1, Terms(precision="no"), smoke=False)
    (folder := tmp_path / "runs" / part.name).mkdir(parents=True)
    write_config(with_overrides(part.recipe(), part.overrides(tmp_path, smoke=False)), folder)
    compare(["codebook"], Place(tmp_path), print, Terms(seeds=1))
    assert json.loads((tmp_path / "comparisons.json").read_text())["precision"] == "no"


def test_parts_of_the_package_are_not_trained(tmp_path):
    terms, place = Terms(seeds=1, shipped=True), Place(tmp_path)
    names = [job.name for job in jobs_of(["table2"], place, terms)]
    assert {"diffusion", "text", "autoencoder", "judge", "bidirectional", "stage1", "opt"} <= set(names)
    result(tmp_path, "opt").mkdir(parents=True)  # as an interrupted copy leaves it
    placed = place_shipped(tmp_path, names)
    assert set(placed) == {"vision", "diffusion", "eval_clip", "judge", "stage1", "opt"}
    jobs = {job.name: job for job in jobs_of(["table2"], place, terms)}
    assert {name for name, job in jobs.items() if job.is_done} == set(placed) - {"vision"}
    assert not {"text", "autoencoder", "bidirectional"} & set(jobs)  # what these stand on is not asked for
    assert place_shipped(tmp_path, names) == []


def test_parts_of_the_package_and_of_a_reproduction_are_not_mixed(tmp_path):
    shipped = Terms(seeds=1, shipped=True)
    run = result(tmp_path, "diffusion").parent
    run.mkdir(parents=True)
    diffusion = next(part for part in FOUNDATIONS if part.name == "diffusion")
    write_config(with_overrides(diffusion.recipe(), diffusion.overrides(tmp_path, smoke=False)), run)
    with pytest.raises(ConfigError, match="trained diffusion itself"):
        compare(["codebook"], Place(tmp_path), print, shipped)
    assert not (tmp_path / "comparisons.json").exists(), "what was refused is not begun"
    (tmp_path / "comparisons.json").write_text(json.dumps(shipped.kept()))
    with pytest.raises(ConfigError, match="package's parts"):
        reproduce(tmp_path, print)


@torch.no_grad()
def test_the_shipped_result_of_stage_1_gives_the_embeddings_of_the_shipped_tokenizer(tmp_path):
    assert place_shipped(tmp_path, ["stage1", "stage2", "text"]) == ["stage1", "stage2"]
    tokenizer = SeedTokenizer.from_pretrained("mini")
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    expected = tokenizer.causal_embeddings(pixels)
    embedder = ImageTextEmbedder.from_pretrained(result(tmp_path, "stage1"))
    assert torch.equal(embedder.qformer(embedder.patch_features(pixels)), expected)
    torch.testing.assert_close(embedder.embed_texts(["a fox"]), tokenizer.embed_texts(["a fox"]))
    again = SeedTokenizer.from_pretrained(result(tmp_path, "stage2"))
    assert torch.equal(again.encode_pixels(pixels), tokenizer.encode_pixels(pixels))


def test_an_interrupted_comparison_leaves_a_table_of_what_is_measured(tmp_path, monkeypatch):
    first = next(row for row in QUESTIONS["codebook"].rows if row.name == "EMA")

    def interrupted(jobs: list[Job], workers: int, say: object) -> None:
        path = scores_file(tmp_path, first.measurement, "test", 3000, 1)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"scores": {"": {"used": 12.5}}}))
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "run_jobs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(["codebook"], Place(tmp_path), print, Terms())
    text = (tmp_path / "comparisons" / "codebook.md").read_text()
    assert "| EMA | 12.5, 1 of 3 seeds |" in text
    assert "| k-means | - |" in text


def test_seeds_need_not_have_the_same_scores(tmp_path):
    """As where a later version measures more."""
    first = next(row for row in QUESTIONS["codebook"].rows if row.name == "EMA")
    for seed, scores in ((1, {"used": 10.0, "older": 1.0}), (2, {"used": 20.0, "newer": 3.0})):
        path = scores_file(tmp_path, first.measurement, "test", QUESTIONS["codebook"].count, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"scores": {"": scores}}))
    found = write_result(tmp_path, "codebook", Terms(seeds=2))["sets"]["test"]["EMA"]
    assert {name: (score["mean"], score["seeds"]) for name, score in found.items()} == {
        "used": (15.0, 2), "older": (1.0, 1), "newer": (3.0, 1)
    }  # fmt: skip


def test_a_question_that_there_is_not_is_refused(cli, tmp_path):
    code, _, err = cli("reproduce", "mini", "--out", tmp_path / "out", "--compare", "table9")
    assert (code, err.count("\n")) == (2, 1)
    assert "table9" in err
    assert "table1" in err
    code, _, err = cli("reproduce", "mini", "--out", tmp_path / "out", "--seeds", 2)
    assert (code, err.count("\n")) == (2, 1)
    assert "--compare" in err


# ---------------------------------------------------------------- what is found


def test_mean_and_range():
    assert statistic([1.0, 4.0, 1.0]) == {"mean": 2.0, "range": [1.0, 4.0], "seeds": 3}
    assert shown("next_code_loss", statistic([1.0, 4.0, 1.0]), 3) == "2.000 (1.000 to 4.000)"
    assert shown("exact", statistic([1.0, 4.0, 1.0]), 3) == "2.0 (1.0 to 4.0)"
    assert shown("exact", statistic([90.0]), 1) == "90.0"
    assert shown("exact", statistic([90.0]), 3) == "90.0, 1 of 3 seeds"
    assert shown("exact", None, 3) == "-"


def test_a_table_has_every_row_and_score():
    rows = {"a": {"x": statistic([1.5, 2.5])}, "b": {"x": statistic([3.0, 3.0]), "y": statistic([70.0, 80.0])}}
    found = {
        "question": "Why?", "terms": "Equal.", "seeds": [1, 2], "count": 8, "steps_scale": 0.5, "batch_scale": 0.25,
        "shipped": True, "differs": {"a": "more", "b": "b"}, "sets": {"test": rows},
    }  # fmt: skip
    text = markdown(found)
    assert "## Why?" in text
    assert "8 scenes, 2 seeds, mean and range; steps times 0.5; batch times 0.25; on the parts of the package" in text
    assert "batch times 0.25; rate times 0.5; on the parts" in markdown(found | {"rate_scale": 0.5})
    assert "| Row | x | y |" in text
    assert "| a | 2.0 (1.5 to 2.5) | - |" in text
    assert "| b | 3.0 | 75.0 (70.0 to 80.0) |" in text
    assert text.endswith("- a: more\n")


# ---------------------------------------------------------------- tiny runs


@pytest.mark.parametrize(
    ("name", "run", "scores"),
    [
        ("embeddings", "bidirectional", {"i2t_r1", "t2i_r1", "r_mean"}),
        ("codes", "stage2", {"r_mean", "of_embeddings"}),
        ("codebook", "stage2", {"used", "perplexity", "r_mean"}),
        ("reader", "stage3b", {"exact", "things", "vqa"}),
        ("reader", "reader", {"exact", "things", "vqa"}),
        ("drawing", "stage3b", {"next_code_loss", "things_right", "clip_similarity", "things_right_own"}),
    ],
)
def test_every_measurement(runs, tmp_path, name, run, scores):
    (tmp_path / "runs").symlink_to(runs)
    what = Measured(tmp_path, (run,), 0, "test-unseen-hands", 4, torch.device("cpu"))
    (found,) = MEASURES[name](what, tmp_path / "predictions").values()
    assert scores <= set(found)
    assert all(isinstance(score, float) for score in found.values())


@pytest.mark.parametrize(("name", "run"), [("embeddings", "bidirectional"), ("codes", "stage2"), ("layout", "none")])
def test_what_is_chosen_between_near_misses_is_measured_too(runs, tmp_path, name, run):
    (tmp_path / "runs").symlink_to(runs)
    what = Measured(tmp_path, (run,), 0, "test+near-misses", 24, torch.device("cpu"))
    (found,) = MEASURES[name](what, tmp_path / "predictions").values()
    assert {"r_mean", "thing_choice", "swap_choice"} <= set(found)
    if name == "layout":
        assert found["thing_choice"] == found["swap_choice"] == 50


@pytest.fixture
def in_process(monkeypatch, runs):
    """Jobs in this process, of a tiny size; what they stand on is there."""

    def run_jobs(jobs: list[Job], workers: int, say: object) -> None:
        for job in sorted(jobs, key=lambda job: job.arguments[0] != "seedtok"):  # training first
            if job.is_done:
                continue
            if job.arguments[0] == "seedtok":
                _, _, recipe, _, folder, _, _, *settings = job.arguments
                name = recipe.removeprefix("mini.")
                sizes = [item for item in TINY[name] if "RUNS" not in item]
                train(with_overrides(recipes()[name](), [*sizes, *settings, *RUN]), Path(folder))
            else:
                _, out, measurement, seed, set_name, count, device = job.arguments
                measure(Path(out), measurement, int(seed), set_name, int(count), device)

    for module in ("reproduction", "comparison"):  # tiny parts are of other settings than the recipes
        monkeypatch.setattr(f"seedtok.mini.{module}.run.check_settings", lambda *_: None)
    monkeypatch.setattr(comparison, "run_jobs", run_jobs)
    monkeypatch.setattr(comparison, "check_made_of", lambda *_: None)


def test_a_question_from_start_to_end(runs, in_process, tmp_path):
    place = Place(tmp_path / "out", smoke=True)
    (place.out / "runs").mkdir(parents=True)
    for name in TINY:
        (place.out / "runs" / name).symlink_to(runs / name)
    (table,) = compare(["table2"], place, print, Terms(seeds=2))
    text = table.read_text()
    assert all(f"| {row.name} |" in text for row in QUESTIONS["table2"].rows)
    found = json.loads(table.with_suffix(".json").read_text())
    similarity = found["sets"]["test"]["GILL"]["clip_similarity"]
    assert similarity["seeds"] == 2
    assert similarity["range"][0] <= similarity["mean"] <= similarity["range"][1]
    written = table.stat().st_mtime_ns
    compare(["table2"], place, print, Terms(seeds=1))  # nothing is trained again
    assert json.loads(table.with_suffix(".json").read_text())["seeds"] == [1]
    assert table.stat().st_mtime_ns > written
    with pytest.raises(ConfigError, match="steps_scale"):
        compare(["table2"], place, print, Terms(seeds=1, steps_scale=0.5))
