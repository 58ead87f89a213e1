"""What the commands of `seedtok evaluate` share: data, what measures drawings, and how results are shown."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from seedtok.cli.support import Precision, out, say
from seedtok.core.hub import MINI, shipped
from seedtok.evaluation.predictions import can_name

if TYPE_CHECKING:
    import torch

    from seedtok.evaluation.clip_scores import ImageFeatures
    from seedtok.evaluation.dataset import EvaluationSet, Scorer
    from seedtok.evaluation.run import Run
    from seedtok.lm.seed_lm import SeedLM
    from seedtok.tokenizer.image_decoder import ImageDecoder
    from seedtok.tokenizer.seed import SeedTokenizer

CLIP = "openai/clip-vit-large-patch14"  # the paper's, for pictures of the world
RECORDS = ("settings", "counts", "clip")  # parts of a result that are records, not scores


@dataclass(frozen=True)
class Given:
    """What the user gave: the model's name, the folder for predictions, and what else they depend on."""

    model: str
    folder: Path | None
    batch_size: int
    seed: int
    made_by: dict[str, Any]

    @property
    def run(self) -> Run:
        from seedtok.evaluation.run import Run

        return Run(self.folder, self.batch_size, self.seed, self.made_by)


def place_of(device: str) -> torch.device:
    """The device by its name; "auto" gives each of several processes on a machine a GPU of its own, where there are."""
    import torch

    from seedtok.core.device import device_named

    chosen = device_named(device)
    if device == "auto" and chosen.type == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return chosen


def is_scenes(data: str) -> bool:
    """Whether `--data` names scenes of the mini world, not a folder."""
    return data.partition(":")[0] == MINI


def evaluation_set(
    data: str, scenes: int, count: int | None, seed: int, every_wording: bool = False
) -> EvaluationSet:  # fmt: skip
    """`scenes` scenes of the mini world, or the first `count` pictures of a folder."""
    if is_scenes(data):
        from seedtok.mini.evaluation import MiniSet, PublishedSet

        name, _, form = data.partition(":")[2].partition("=")
        if form:
            return PublishedSet(form, scenes, seed, name)
        return MiniSet(scenes, seed, every_wording, name=name or "test", classic=not name)
    from seedtok.data.prepared import open_set

    return open_set(Path(data), count)


def scene_scorer(data: EvaluationSet, judge: Any = None) -> Scorer:
    """What knows the scenes of a set of them; without a judge, for captions alone."""
    from seedtok.mini.evaluation import MiniSet, SceneScorer

    assert isinstance(data, MiniSet)
    return SceneScorer(data, judge)


def answers_floors(data: EvaluationSet) -> dict[str, dict[str, float]]:
    """How many questions about scenes are guessed right, in percent: without seeing them, and by their layout."""
    from seedtok.mini.evaluation import MiniSet, answer_floors

    assert isinstance(data, MiniSet)
    return answer_floors(data)


def retrieval_floors(data: EvaluationSet) -> dict[str, dict[str, float]]:
    """What retrieval gives by background and places alone, in percent, among scenes."""
    from seedtok.mini.evaluation import MiniSet, recall_floors

    assert isinstance(data, MiniSet)
    return recall_floors(data)


def drawing_judges(
    data: str, found: EvaluationSet, clip: str | None, device: torch.device
) -> tuple[ImageFeatures, Scorer | None]:
    """What measures drawings: a CLIP and, of scenes, the scene judge."""
    if not is_scenes(data):
        from seedtok.evaluation.clip_scores import ClipImages

        return ClipImages.from_pretrained(clip or CLIP, device), None
    from seedtok.mini.evaluation import load_features
    from seedtok.mini.judge import SceneJudge

    judge = SceneJudge.from_pretrained(shipped("judge")).to(device)
    return load_features(clip or shipped("eval_clip"), device), scene_scorer(found, judge)


def gill_features(folder: Path | None, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a GILL baseline comes from captions to text features, and what is noted of it; nothing for None."""
    if folder is None:
        return {}, {}
    from seedtok.baselines.gill import Gill

    return {"gill": Gill.from_pretrained(folder).to(device).text_features}, {"gill": identified(str(folder))}


def few_steps_by(lcm_lora: str | None, tokenizer: SeedTokenizer) -> tuple[ImageDecoder | None, dict[str, Any]]:
    """A tokenizer's image decoder with an LCM-LoRA, and what is noted of it; nothing for None."""
    if lcm_lora is None:
        return None, {}
    return tokenizer.image_decoder.with_lcm_lora(lcm_lora), {"lcm_lora": identified(lcm_lora, "lcm_lora")}


def identified(name: str, part: str = "tokenizer") -> dict[str, str]:
    """What tells a model from others, for the record."""
    from seedtok.evaluation.foreign import identity_of

    return identity_of(name, part)


@dataclass(frozen=True)
class GivenLM:
    """A language model as the command line names it: its checkpoint, and how it is loaded.

    `base` and `tokenizer` replace the base language model and the image tokenizer that the checkpoint names.
    """

    model: str
    base: str | None
    tokenizer: str | None
    template: str | None
    quantize: str | None
    dtype: Precision

    @property
    def record(self) -> dict[str, Any]:
        """What its predictions depend on."""
        parts = {"base": (self.base, "opt"), "tokenizer": (self.tokenizer, "tokenizer")}
        named = {name: identified(given, part) for name, (given, part) in parts.items() if given is not None}
        quantized = {} if self.quantize is None else {"quantize": self.quantize}
        return {"model": identified(self.model, "lm"), "dtype": self.dtype.value, **named, **quantized}

    def load(self, device: torch.device) -> SeedLM:
        """The model, which is a SEED language model."""
        from seedtok.cli.lm import load_lm

        return load_lm(
            self.model, self.dtype.value, str(device), self.base, self.tokenizer, self.template, self.quantize
        )


def readers_by_row(
    given: GivenLM, device: torch.device, beside: Sequence[str] = (), zero_shot: bool = False
) -> dict[str, Any]:
    """The model and those beside it by their rows.

    With `zero_shot`, for questions about scenes: the shipped model has seen some of the training split, and the shipped
    one that has seen captions alone, as the paper's, gets a row too. What is quantized is these.
    """
    import torch

    from seedtok.evaluation.readers import SeedReader, load_reader
    from seedtok.lm.native import template_named
    from seedtok.lm.seed_lm import SeedLM

    kind = getattr(torch, given.dtype.value)
    template = template_named(given.template)
    reader = load_reader(given.model, kind, device, given.base, given.tokenizer, given.quantize, template)
    readers: dict[str, Any] = {reader.row: reader}
    if zero_shot and given.model == MINI and isinstance(reader, SeedReader):
        others = SeedLM.from_pretrained(
            shipped("lm_captions"), seed=reader.model.seed, dtype=kind, device=device, quantize=given.quantize
        )
        readers = {"zero_shot": SeedReader(others), "instructed": reader}
    return with_others(readers, beside, lambda name: load_reader(name, kind, device))


def with_others(models: dict[str, Any], beside: Sequence[str], load: Callable[[str], Any]) -> dict[str, Any]:
    """Models by their rows, and after them others by theirs or, where that is taken, by the last part of their names.

    Where that is taken too, or a file of predictions has it, a number follows: what is predicted is named by the row.
    """
    for name in beside:
        other = load(name)
        path = Path(name).resolve()
        last = (path.parent if path.name == "final" else path).name or other.row  # RUN/final: the run's
        rows = chain((other.row, last), (f"{last}-{number}" for number in count(2)))
        models[next(row for row in rows if row not in models and can_name(row))] = other
    return models


def with_beside(record: dict[str, Any], beside: Sequence[str], part: str) -> dict[str, Any]:
    """What predictions depend on, with the models beside the first."""
    return {**record, "beside": [identified(name, part) for name in beside]} if beside else record


def report(evaluate: Callable[[], dict[str, Any]], given: Given, data: EvaluationSet, as_json: bool) -> None:
    """Runs an evaluation and shows its result; of several processes, the first."""
    began = time.perf_counter()
    result = evaluate()
    if not result:
        return
    result |= {"model": given.model, "count": len(data), "seed": given.seed, "seconds": time.perf_counter() - began}
    if as_json:
        print(json.dumps(result))
    else:
        show(result)


def show(result: dict[str, Any]) -> None:
    """The scores in tables, and everything else a line each."""
    from seedtok.evaluation.run import rows_by_columns

    missing = result.pop("missing", {})
    scores = {name: value for name, value in result.items() if name not in RECORDS}
    for columns, names in rows_by_columns(scores).items():
        cells = [["", *columns], *([name, *(_number(result[name][column]) for column in columns)] for name in names)]
        wide = sum(max(map(len, column)) + 3 for column in zip(*cells, strict=True)) + 1
        rows = cells if wide <= out.width else list(zip(*cells, strict=True))  # a number is never cut
        table = Table(*rows[0])
        for row in rows[1:]:
            table.add_row(*row)
        out.print(table)
    for name, value in scores.items():
        if not isinstance(value, dict):
            say(f"{name}: {_number(value)}")
    for name, reason in missing.items():
        say(f"{name} is not there: {reason}")
    for what, published in result.get("counts", {}).get("published", {}).items():
        if (found := result["counts"][what]) != published:
            say(f"{found:,} {what}; the publisher has {published:,}")


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
