"""lmms-eval's own evaluator, with a local task and our models: what it scores is what they say."""

import json
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from seedtok.core.errors import ConfigError
from seedtok.evaluation.lmms_manifest import manifest
from seedtok.evaluation.readers import SeedReader
from seedtok.lm.prompts import TextSettings
from seedtok.lm.seed_lm import SeedLM

pytest.importorskip("lmms_eval.evaluator")
pytestmark = pytest.mark.slow
TASK = """
task: local_questions
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/questions.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function local_task.pictures
doc_to_text: !function local_task.question
doc_to_target: answer
generation_kwargs: {{until: ["\\n"], max_new_tokens: 6, do_sample: false}}
process_results: !function local_task.score
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
CODE = """
from PIL import Image

def pictures(doc):
    return [Image.open(doc["picture"])]

def question(doc, kwargs=None):
    return doc["question"]

def score(doc, results):
    return {"exact_match": float(results[0] == doc["answer"])}
"""


@pytest.fixture
def model(bases, seed, tmp_path) -> Path:
    SeedLM.build(bases["llama"], seed).save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def test_the_entry_point_is_declared():
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, name = declared["project"]["entry-points"]["lmms_eval.models"]["seedtok"].split(":")
    assert getattr(import_module(module), name) is manifest


def test_its_evaluator_scores_what_our_model_says(model, tiny_tokenizer, tmp_path, monkeypatch):
    from lmms_eval import models
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    task = tmp_path / "task"
    task.mkdir()
    reader = SeedReader(SeedLM.from_pretrained(model))
    lines = []
    for number, colour in enumerate(("red", "green", "blue")):
        picture = Image.new("RGB", (40 + number, 40), colour)
        picture.save(task / f"{number}.png")
        question = f"What is number {number}?"
        with torch.no_grad():
            (said,) = reader.write([picture], [[f"Question: {question}"]], TextSettings(1, 6))
        answer = said.partition("\n")[0].strip() if number else "something else"
        lines.append({"picture": str(task / f"{number}.png"), "question": question, "answer": answer})
    (task / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (task / "local_task.yaml").write_text(TASK.format(folder=task))
    (task / "local_task.py").write_text(CODE)
    models.MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)  # as the entry point of an installed package
    found = simple_evaluate(
        "seedtok", f"pretrained={model},prompt=Question: {{}}", tasks=["local_questions"], batch_size=2, device="cpu",
        task_manager=TaskManager(include_path=str(task), include_defaults=False), bootstrap_iters=0,
    )  # fmt: skip
    assert found["results"]["local_questions"]["exact_match,none"] == pytest.approx(2 / 3)
    assert len(found["samples"]["local_questions"]) == 3


def test_what_it_does_not_do_is_said(model):
    from seedtok.evaluation.lmms_model import LmmsReader

    with pytest.raises(ConfigError, match="has no place for the task's own"):
        LmmsReader(str(model), prompt="Question")
    with pytest.raises(ConfigError, match="unknown dtype 'int3': expected float32"):
        LmmsReader(str(model), dtype="int3")
    with pytest.raises(ConfigError, match="by generating"):
        LmmsReader(str(model), device="cpu").loglikelihood([])
