"""A fine-tuning from start to end: three stages on one's own pictures, measured before and after on those held out."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import ConfigError, DataError
from seedtok.core.locks import locked
from seedtok.data.held_out import NothingLeft
from seedtok.data.held_out import Part as Split
from seedtok.data.prepared import ShardSet
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.finetuning import recipes
from seedtok.mini.finetuning.measures import measure, measure_distances, measured
from seedtok.mini.finetuning.start import SCENES, Start, load, prepare
from seedtok.mini.parts import Part, check_same, keep_same, result
from seedtok.tokenizer.familiarity import FILE as FAMILIARITY
from seedtok.training.checkpoints import list_checkpoints
from seedtok.training.config import RunConfig, with_overrides
from seedtok.training.loop import train
from seedtok.training.rate import seconds_per_step
from seedtok.training.runs import read_config, with_precision_of

PARTS = (
    Part("stage1", recipes.stage1),
    Part("stage2", recipes.stage2, {"stage.embedder": "stage1"}),
    Part("stage3", recipes.stage3, {"stage.tokenizer": "stage2"}),
)
# of one's own pictures, those of the scenes being 1: at even weights captions were in the manner of the scenes'
WEIGHTS = {"stage1": 1.0, "stage2": 1.0, "stage3": 4.0}
SHARES = {"stage1": 0.4, "stage2": 0.2, "stage3": 0.3}  # of the time; what is left is for all that is not training


@dataclass(frozen=True)
class Finetuning:
    """What to learn from and for how long: `minutes` on this machine, or `steps` of each stage.

    `data` is a folder of shards, of whose images a share `held_out` is only measured on. `overrides` are settings of a
    stage, such as "stage1.optimization.lr=1e-4".
    """

    data: Path
    model: str = "mini"
    minutes: float = 30.0
    steps: int | None = None
    held_out: float = 0.1
    scenes: int = SCENES  # of the mini world, beside one's own pictures
    overrides: tuple[str, ...] = ()

    def settings_of(self, part: str) -> list[str]:
        """The settings of one stage; raises ConfigError where one is of none."""
        named = [item.partition(".") for item in self.overrides]
        for name, _, setting in named:
            if name not in SHARES or not setting:
                known = ", ".join(SHARES)
                raise ConfigError(f"no stage {name!r}: expected {known}, as in stage1.optimization.lr=1e-4")
        steps = [] if self.steps is None else [f"optimization.steps={self.steps}"]
        return [*steps, *(setting for name, _, setting in named if name == part)]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"data": str(self.data), "overrides": list(self.overrides)}


def finetune(wanted: Finetuning, out: Path, say: Callable[[str], None], device: str = "cpu") -> dict[str, Any]:
    """Trains OUT/final, which `SeedLM.from_pretrained` loads; returns what was measured before and after.

    What an earlier call finished in `out` stays, and what it began goes on. Raises ConfigError where `out` was begun
    with other settings, or for settings or a model that there are not, BusyError where another process works in it,
    DataError for data that cannot be read or split, and as `train` does; what was refused is not begun.
    """
    out, wanted = out.absolute(), replace(wanted, data=wanted.data.absolute())
    for part in PARTS:  # a setting that there is not is refused now, and not once its stage begins
        with_overrides(part.recipe(), wanted.settings_of(part.name))
    with locked(out):
        check_same(out / "finetuning.json", wanted.record())
        held_out, pictures = split(wanted.data, wanted.held_out)
        lm = load(wanted.model)
        keep_same(out / "finetuning.json", wanted.record())  # once all of it can be used
        start = prepare(lm, wanted.model, pictures, out, wanted.scenes)
        say(f"{len(pictures)} pictures to learn from, {len(held_out)} to measure on")
        before = measured(out / "before.jsonl", held_out)
        if before is None:
            before = measure(lm.to(device), held_out, start.caption_tokens, out / "before.jsonl")
        say(f"before: {told(before)}")
        del lm  # its memory is needed
        for part in PARTS:
            train_part(part, wanted, start, out, say)
            if part.name == "stage2" and not (result(out, "stage2") / FAMILIARITY).is_file():
                measure_distances(result(out, "stage2"), (out / "scenes", wanted.data), wanted.held_out)
        folder = finish(wanted, start, out)
        lm = SeedLM.from_pretrained(folder, device=device)
        after = measure(lm, held_out, start.caption_tokens, out / "after.jsonl")
        say(f"after: {told(after)}")
        found = {"pictures": len(pictures), "held_out": len(held_out), "before": before, "after": after}
        with atomic_file(out / "finetuned.json") as temporary:
            temporary.write_text(json.dumps(found, indent=1))
    return found


def split(data: Path, share: float) -> tuple[ShardSet, ShardSet]:
    """The pictures to measure on, and those to learn from; raises DataError where there are none of either."""
    try:
        held_out, pictures = (ShardSet(data, part=Split(share, side)) for side in (True, False))
    except NothingLeft:
        raise DataError(
            f"{data}: holding out {share:g} of its pictures leaves none to measure on, or to learn from: give more "
            "pictures, or another --held-out"
        ) from None
    return held_out, pictures


def train_part(part: Part, wanted: Finetuning, start: Start, out: Path, say: Callable[[str], None]) -> None:
    """Trains one stage, or goes on with it; not again where its result is there."""
    folder = out / "runs" / part.name
    if (folder / "final" / "config.json").is_file():
        say(f"already there: {part.name}")
        return
    if (folder / "config.json").is_file():  # its inputs may lie elsewhere by now
        config = with_overrides(read_config(folder, [part.recipe()]), settings_for(part, wanted, start, out))
    else:
        config = configured(part, wanted, start, out)
    steps, batch = config.optimization.steps, config.optimization.batch_size
    say(f"{part.name}: {steps:,} steps of {batch} pictures, into {folder}")
    began, saved = time.monotonic(), list_checkpoints(folder)
    train(config, folder, resume=bool(saved))
    seen, seconds = batch * (steps - (int(saved[-1].name) if saved else 0)), time.monotonic() - began
    say(f"{part.name}: {seen:,} pictures seen in {seconds / 60:.1f} min, {seen / seconds:.0f} a second")


def configured(part: Part, wanted: Finetuning, start: Start, out: Path) -> RunConfig:
    """A recipe with its settings, the precision of the first stage, and as many steps as there is time for."""
    config = with_overrides(part.recipe(), settings_for(part, wanted, start, out))
    first = out / "runs" / PARTS[0].name
    if part != PARTS[0] and (first / "config.json").is_file():  # trained perhaps on another machine
        config = with_precision_of(read_config(first, [PARTS[0].recipe()]), config)
    if wanted.steps is not None:
        return config
    seconds = 60 * wanted.minutes * SHARES[part.name]
    return with_overrides(config, [f"optimization.steps={max(1, round(seconds / seconds_per_step(config)))}"])


def settings_for(part: Part, wanted: Finetuning, start: Start, out: Path) -> list[str]:
    """What differs from a recipe: its data, what it starts from, and what was asked for."""
    shards = json.dumps({str(wanted.data): WEIGHTS[part.name], str(out / "scenes"): 1.0})
    settings = [f"data.shards={shards}", f"data.validation={wanted.held_out}", *start.settings[part.name]]
    return [*settings, *part.overrides(out, smoke=False), *wanted.settings_of(part.name)]


def finish(wanted: Finetuning, start: Start, out: Path) -> Path:
    """Writes OUT/final: the language model with its base and image tokenizer in one folder, which can be moved."""
    folder = out / "final"
    lm = SeedLM.from_pretrained(result(out, "stage3"), trainable=True)
    lm.template = replace(lm.template, caption_tokens=start.caption_tokens)
    lm.save_pretrained(folder, standalone=True)
    return folder


def told(scores: dict[str, float]) -> str:
    """What was measured, in a line."""
    exact, far = scores["exact"], scores["far"]
    return f"{exact:.1f} % of captions exactly right, {far:.1f} % of pictures far from those of training"
