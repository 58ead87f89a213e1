"""A reproduction of parts that are all there: its order, its tables and its report."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from seedtok.core.errors import ConfigError
from seedtok.mini.parts import result
from seedtok.mini.reproduction import run
from seedtok.mini.reproduction.charts import bar_chart, line_chart
from seedtok.mini.reproduction.jobs import Job
from seedtok.mini.reproduction.parts import PARTS, TABLES
from seedtok.mini.reproduction.tables import TABLES as MEASURED
from seedtok.mini.reproduction.tables import main as measure
from seedtok.mini.reproduction.tables import table_file
from seedtok.training.config import with_overrides
from seedtok.training.runs import changes, read_config, write_config
from seedtok.training.setup import with_precision


def test_parts_and_tables_need_what_is_made():
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    for i, part in enumerate(PARTS):
        assert set(part.inputs.values()) <= set(names[:i]), part.name
        assert part.recipe().recipe == f"mini.{part.name}"
    for table in TABLES:
        assert set(table.needs) <= set(names)
    assert {table.name for table in TABLES} == set(MEASURED)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
@pytest.mark.parametrize("smoke", [False, True])
def test_settings_of_a_part_are_those_of_its_recipe(part, smoke, tmp_path):
    config = with_overrides(part.recipe(), part.overrides(tmp_path, smoke))
    for key, needed in part.inputs.items():
        assert getattr(config.stage, key.removeprefix("stage.")) == result(tmp_path, needed)
    assert (config.optimization.steps <= 20) == smoke


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """What the jobs of a reproduction leave, without their work."""

    def leave(jobs: list[Job], workers: int, say: object) -> None:
        for job in jobs:
            if job.arguments[0] == "seedtok":
                name = job.name
                folder = tmp_path / "out" / "runs" / name
                (folder / "final").mkdir(parents=True, exist_ok=True)
                part = next(part for part in PARTS if part.name == name)
                write_config(with_overrides(part.recipe(), part.overrides(tmp_path / "out", smoke=False)), folder)
                lines = [{"step": step, "kind": "train", "loss": 1 / (step + 1)} for step in range(4)]
                lines.append({"step": 4, "kind": "validation", "accuracy": 12.5})
                (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
            else:
                job.makes.parent.mkdir(parents=True, exist_ok=True)
                scores = {"count": 3, "seconds": 1.0, "a<b": {"x": 1.25, "y": None}, "used": 77, "settings": {"z": 1}}
                job.makes.write_text(json.dumps(scores))
        (predictions := table_file(tmp_path / "out", "codebook", "test").with_suffix("")).mkdir(exist_ok=True)
        codes = [{"image_id": i, "codes": [1, 1, 5]} for i in range(3)]
        (predictions / "codes.json").write_text(json.dumps(codes))
        for way in ("seed", "caption"):
            folder = table_file(tmp_path / "out", "generation", "test").with_suffix("") / way
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(3):
                Image.new("RGB", (8, 8), "red").save(folder / f"{i}.png")

    monkeypatch.setattr(run, "run_jobs", leave)
    return run.reproduce(tmp_path / "out", print)


def test_the_report_is_one_page_with_every_table_picture_and_curve(finished):
    page = finished.read_text()
    assert finished.name == "report.html"
    for table in TABLES:
        assert f"<h2>{table.name.capitalize()}</h2>" in page
    assert "<td>a&lt;b</td><td>1.2</td><td>-</td>" in page
    assert "used: 77" in page
    assert page.count("<figure>") == 2
    assert page.count("<polyline") == len(PARTS)
    assert page.count("<rect") == 2  # the codes in use
    assert "accuracy 12.5" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "another file is needed"
    assert str(finished.parent) not in page


def test_a_smoke_test_and_a_reproduction_do_not_share_a_folder(finished, tmp_path):
    with pytest.raises(ConfigError, match="was begun with smoke false"):
        run.reproduce(tmp_path / "out", print, smoke=True)
    assert run.reproduce(tmp_path / "out", print) == finished


def test_a_run_of_other_settings_is_not_taken_for_that_of_today(tmp_path):
    part, place = next(part for part in PARTS if part.inputs), run.Place(tmp_path)
    folder = tmp_path / "runs" / part.name
    folder.mkdir(parents=True)
    config = with_overrides(part.recipe(), part.overrides(Path("/elsewhere"), smoke=False))
    assert config.precision == "auto"
    write_config(with_precision(config), folder)  # as training writes it
    assert "--resume" not in run.training_job(part, place).command(), "there is nothing to go on from"
    (folder / "checkpoints" / "00000005").mkdir(parents=True)
    assert "--resume" in run.training_job(part, place).command()
    resumed = with_overrides(read_config(folder, [config]), part.overrides(tmp_path, smoke=False))
    assert set(part.overrides(tmp_path, smoke=False)) <= set(run.training_job(part, place).arguments)
    for setting in part.inputs:  # the folder was moved
        assert any(
            line.startswith(f"{setting} was /elsewhere") for line in changes(read_config(folder, [config]), resumed)
        )
    write_config(config.model_copy(update={"seed": 7}), folder)
    with pytest.raises(ConfigError, match="was begun with seed=7, and would now be with 0: choose another folder"):
        run.training_job(part, place)


def test_a_table_of_another_model_is_measured_from_the_start(runs, tmp_path):
    (tmp_path / "runs").mkdir()
    for folder in runs.iterdir():
        if folder.name != "stage2":
            (tmp_path / "runs" / folder.name).symlink_to(folder)
    shutil.copytree(runs / "stage2", tmp_path / "runs" / "stage2")
    (table,) = (table for table in TABLES if table.name == "codebook")
    job = run._measuring(table, "test", run.Place(tmp_path, smoke=True))
    codes = table_file(tmp_path, "codebook", "test").with_suffix("") / "codes.json"
    measure(tmp_path, "codebook", "test", 4, "cpu")
    assert job.is_done
    made = codes.stat().st_mtime_ns
    job.makes.unlink()  # half-made: the predictions are there
    measure(tmp_path, "codebook", "test", 4, "cpu")
    assert codes.stat().st_mtime_ns == made
    (result(tmp_path, "stage2") / "changed").touch()
    assert not job.is_done
    measure(tmp_path, "codebook", "test", 4, "cpu")
    assert job.is_done
    assert codes.stat().st_mtime_ns > made


def test_charts_hold_every_point_and_refuse_nothing():
    assert line_chart("t", []) == ""
    assert line_chart("t", [(0.0, 1.0)]) == ""
    chart = line_chart("a & b", [(0.0, 1.0), (1.0, float("nan")), (2.0, 0.1)])
    assert "a &amp; b" in chart
    (points,) = re.findall(r'points="([^"]*)"', chart)
    assert len(points.split()) == 2
    assert line_chart("t", [(0.0, -1.0), (1.0, 1.0)]).count("polyline") == 1
    assert bar_chart("t", [], "codes") == ""
    assert bar_chart("t", [3, 2, 1], "codes").count("<rect") == 3


def test_only_the_mini_size_is_reproduced_and_only_into_a_folder_of_ones_own(cli, tmp_path):
    code, _, err = cli("reproduce", "paper", "--out", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "only mini" in err
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = cli("reproduce", "mini", "--out", tmp_path)
    assert code == 2
    assert "holds no reproduction" in err
