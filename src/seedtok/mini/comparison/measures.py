"""Measures the runs of one row: `python -m seedtok.mini.comparison.measures DIR MEASUREMENT SEED SET COUNT DEVICE`."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from seedtok.baselines.gill import Gill
from seedtok.core.atomic import atomic_file
from seedtok.core.processes import keep_freed_memory
from seedtok.evaluation.codebook import evaluate_codebook
from seedtok.evaluation.dataset import percent
from seedtok.evaluation.generation import TextFeatures, evaluate_generation
from seedtok.evaluation.predictions import Predictions, Record
from seedtok.evaluation.readers import Reader, load_reader
from seedtok.evaluation.retrieval import evaluate_retrieval, near_miss_row
from seedtok.evaluation.retrieval_models import load_retrieval_model
from seedtok.evaluation.run import Batch, Run, Task, evaluate
from seedtok.evaluation.vqa import evaluate_vqa
from seedtok.lm.decoding import image_log_probs
from seedtok.lm.prompts import CAPTION, CAPTIONING
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.comparison.made_of import made_of
from seedtok.mini.comparison.questions import QUESTIONS, Row
from seedtok.mini.comparison.runs import parts_of, seeded
from seedtok.mini.evaluation import MiniSet, SceneScorer, blind_accuracy, layout_accuracy, recall_floors
from seedtok.mini.identities import MADE_BY, NAME, Identities, identities, remove_others
from seedtok.mini.parts import result
from seedtok.mini.reproduction.tables import Models
from seedtok.mini.world.told import FIELDS
from seedtok.tokenizer.seed import SeedTokenizer

Scores = dict[str, dict[str, float]]  # of each row that a measurement is of, by its key
RECALLS = ("i2t_r1", "t2i_r1", "r_mean")
JUDGES = {"generation": ("judge", "eval_clip"), "drawing": ("judge", "eval_clip")}  # foundations of a measurement
DRAWN = ("clip_similarity", "things_right", "background_right")


@dataclass(frozen=True)
class Measured:
    """What is measured: the folders of runs, `count` scenes of a set, and where predictions go."""

    out: Path
    runs: tuple[str, ...]  # with their seed
    seed: int
    set_name: str
    count: int
    device: torch.device
    of: Identities = field(default_factory=dict)  # what tells the runs, and what judges them, from others

    def folder(self, number: int = 0) -> Path:
        return result(self.out, self.runs[number])

    def data(self) -> MiniSet:
        return MiniSet(self.count, name=self.set_name, classic=False)

    def run(self, predictions: Path, batch_size: int = 32) -> Run:
        return Run(predictions, batch_size, self.seed, {MADE_BY: self.of})


def embeddings(what: Measured, out: Path) -> Scores:
    """Recalls of a Q-Former and choices between near misses, in percent."""
    model = load_retrieval_model(what.folder(), torch.float32, what.device)
    found = evaluate_retrieval({"model": model}, what.data(), what.run(out))
    return {"": _recalls(found, "model")}


def codes(what: Measured, out: Path) -> Scores:
    """Recalls of a tokenizer's codes, and choices, in percent; what share of its embeddings' recalls they are."""
    model = load_retrieval_model(what.folder(), torch.float32, what.device)
    found = evaluate_retrieval({"model": model}, what.data(), what.run(out))
    code, embedding = found["causal_code"], found["causal_embedding"]
    kept = 100 * code["r_mean"] / embedding["r_mean"] if embedding["r_mean"] else 0.0
    return {"": _recalls(found, "causal_code") | {"of_embeddings": kept}}


def layout(what: Measured, out: Path) -> Scores:
    """Recalls and choices of background and places alone, in percent."""
    return {"": _recalls(recall_floors(what.data()), "layout")}


def _recalls(found: Mapping[str, Any], row: str) -> dict[str, float]:
    """Recalls of a row and, among near misses, how often the right thing, and the right one of a swap, is chosen."""
    rows = {what: found.get(near_miss_row(row, what)) for what in ("thing", "swap")}
    chosen = {f"{what}_choice": (own["i2t_choice"] + own["t2i_choice"]) / 2 for what, own in rows.items() if own}
    return _chosen(found[row], RECALLS) | chosen


def codebook(what: Measured, out: Path) -> Scores:
    """Codes in use, in percent of the codebook, and their perplexity; beside them the recalls of codes."""
    tokenizer = SeedTokenizer.from_pretrained(what.folder(), device=what.device)
    found = evaluate_codebook(tokenizer, what.data(), what.run(out / "codebook"))
    used = {"used": 100 * found["used"] / found["size"], "perplexity": float(found["perplexity"])}
    return {"": used | codes(what, out / "retrieval")[""]}


def reader(what: Measured, out: Path) -> Scores:
    """Captions right by field, and answers to questions, in percent; CIDEr of templates measures the template."""
    model, data = load_reader(what.folder(), device=what.device), what.data()
    answered = evaluate_vqa({"model": model}, data, what.run(out / "answers"))
    return {"": _told(model, data, what.run(out / "captions")) | {"vqa": float(answered["model"]["accuracy"])}}


def _told(model: Reader, data: MiniSet, run: Run) -> dict[str, float]:
    """What a model's captions of scenes tell right, in percent of each field."""

    def make(batch: Batch, _: Path) -> list[Record]:
        said = model.write(batch.pictures, [[CAPTION]] * len(batch.pictures), CAPTIONING)
        return [{"image_id": index, "caption": text} for index, text in zip(batch.indices, said, strict=True)]

    def score(predictions: Predictions) -> dict[str, Any]:
        records = predictions.read("model")
        said, indices = ([record[key] for record in records] for key in ("caption", "image_id"))
        return {"model": percent(SceneScorer(data).score_captions(said, indices))}

    settings = {"models": {"model": model.settings}, "prompt": CAPTION, "decoding": CAPTIONING.arguments()}
    return _chosen(evaluate(Task("captions", settings, {"model": make}, score), data, run)["model"], FIELDS)


def blind(what: Measured, out: Path) -> Scores:
    """Answers without a picture, in percent."""
    return {"": {"vqa": blind_accuracy(what.data())["accuracy"]}}


def layout_answers(what: Measured, out: Path) -> Scores:
    """Answers by background and places alone, in percent."""
    return {"": {"vqa": layout_accuracy(what.data())["accuracy"]}}


def generation(what: Measured, out: Path) -> Scores:
    """Drawings of a tokenizer, of the diffusion model and of GILL: CLIP similarity and things right.

    Beside them the true pictures, by the judge; as drawings of one another they are floors of the similarity.
    """
    tokenizer = SeedTokenizer.from_pretrained(what.folder(0), device=what.device)
    gill = Gill.from_pretrained(what.folder(1)).to(what.device)
    found = _drawn(what, out, tokenizer, {"gill": gill.text_features})
    floors, real = found["floors"], {f"{name}_right": share for name, share in found["judge_on_real"].items()}
    scores = {way: {column: found[column][way] for column in DRAWN} for way in ("caption", "gill", "seed")}
    return scores | {
        "true": {"clip_similarity": floors["nearest_picture"], **_chosen(real, DRAWN)},
        "random": {"clip_similarity": floors["random_picture"]},
    }


def drawing(what: Measured, out: Path) -> Scores:
    """Drawings of SEED-OPT and, beside them, from the pictures' own codes; the loss of those after the caption."""
    lm = SeedLM.from_pretrained(what.folder(), device=what.device)
    tokenizer, data = lm.seed, what.data()

    def features(captions: list[str]) -> torch.Tensor:
        return tokenizer.generation_embeddings(tokenizer.lookup(lm.draw_codes(captions)))

    found = _drawn(what, out, tokenizer, {"lm": features})
    codes = tokenizer.encode(data.picture(index) for index in range(len(data)))
    prompts = [lm.drawing_ids(data[index].captions[0]) for index in range(len(data))]
    with torch.no_grad():
        loss = -float(image_log_probs(lm.joint, prompts, codes).mean()) / codes.shape[1]
    own = {f"{column}_own": found[column]["seed"] for column in DRAWN}
    return {"": {"next_code_loss": loss} | {column: found[column]["lm"] for column in DRAWN} | own}


def _drawn(
    what: Measured, out: Path, tokenizer: SeedTokenizer, others: Mapping[str, TextFeatures]
) -> dict[str, Any]:  # fmt: skip
    data, models = what.data(), Models(what.out, what.device)
    return evaluate_generation(tokenizer, data, what.run(out, 16), *models.judges(data), others=others)


MEASURES = {
    "embeddings": embeddings, "codes": codes, "codebook": codebook, "reader": reader, "blind": blind,
    "generation": generation, "drawing": drawing, "layout": layout,
    "layout_answers": layout_answers,
}  # fmt: skip


def _chosen(scores: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(scores[name]) for name in names if scores.get(name) is not None}


def scores_file(out: Path, measurement: str, set_name: str, count: int, seed: int) -> Path:
    """Where the scores of a measurement of `count` scenes lie; its predictions are in the folder of the same name."""
    return out / "comparisons" / "measured" / measurement / f"{set_name}-{count}-seed{seed}.json"


def row_of(measurement: str) -> Row:
    """A row that has a measurement."""
    rows = (row for question in QUESTIONS.values() for row in question.rows)
    return next(row for row in rows if row.measurement == measurement)


def needs_of(row: Row, seed: int) -> tuple[str, ...]:
    """The parts that a row is measured of and by, the runs with their seed."""
    return (*(seeded(run, seed) for run in row.runs), *JUDGES.get(row.measure, ()))


def main(out: Path, measurement: str, seed: int, set_name: str, count: int, device: str) -> None:
    """Measures, and writes the scores; predictions stay beside them. Those of other models are removed first."""
    row, path = row_of(measurement), scores_file(out, measurement, set_name, count, seed)
    runs, needs = tuple(seeded(run, seed) for run in row.runs), needs_of(row, seed)
    of = identities(out, needs)
    remove_others(path.with_suffix(""), of)
    what = Measured(out, runs, seed, set_name, count, torch.device(device), of)
    kept = made_of(out, needs, parts_of([seed]))
    scores = MEASURES[row.measure](what, path.with_suffix(""))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"scores": scores, NAME: of, **kept}, indent=1))


if __name__ == "__main__":
    keep_freed_memory()
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), sys.argv[6])
