"""Keeps the losses of a finished run of a mini recipe: those of its first steps, and some of all later ones.

python tools/loss_trace.py RUN [FOLDER]

writes FOLDER/PART.json of RUN, a folder of `seedtok train mini.PART`; FOLDER is docs/runs by default. The first steps
are taken anew, in float32 and so alike on any machine, from the weights in the package: keep the traces of runs on
other parts when these are shipped. Where a run began on a part that is not in the package, they begin on another, as
`STAND_INS` says. `tests/mini/test_loss_traces.py` takes the same steps, and compares.
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from seedtok.cli.support import recipe_named
from seedtok.core.hub import shipped
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.training.loop import set_up
from seedtok.training.step import take_step

FIRST, APART = 20, 50  # steps that are kept one by one; how far apart the later ones are, at least
AS_LOGGED = 0.03  # how much, relatively, a first step in float32 may differ from the run's own, in its precision
KEPT = Path(__file__).parent.parent / "docs" / "runs"

STARTS = {  # what of the package a part begins on; those not here begin from nothing
    "diffusion": ("diffusion/text_encoder", "diffusion/vae"),
    "lcm": ("vision", "tokenizer", "diffusion"),
    "judge": ("diffusion",),
    "bidirectional": ("vision",),
    "stage1": ("vision", "tokenizer"),
    "stage2": ("vision", "tokenizer", "diffusion"),
    "stage3a": ("vision", "tokenizer", "opt"),
    "stage3b": ("vision", "tokenizer", "opt", "lm_captions"),
    "instructed": ("vision", "tokenizer", "opt", "lm_captions"),
    "blip2": ("vision", "tokenizer", "opt"),
    "reader": ("vision", "tokenizer", "opt"),
    "beit2": ("vision",),
    "gill": ("diffusion", "opt"),
}
EMBEDDER = {"stage1": "start", "stage2": "embedder", "blip2": "qformer"}  # a setting that takes the tokenizer's
CAPTIONER = ("stage3b", "instructed")  # begin on lm_captions
# begin on what came of them or of a later part: the tokenizer's Q-Former in place of the bidirectional one (stage1,
# blip2), its own result in place of stage IIIa's (stage3b)
STAND_INS = ("stage1", "blip2", "stage3b")


@dataclass(frozen=True)
class Trace:
    """The losses of a run: `first`, of its first steps in float32; `later`, pairs of a step, from 0, and its loss.

    `start` tells the weights in the package on which the first steps were taken from others; "" where on none.
    """

    recipe: str
    start: str
    first: list[float]
    later: list[tuple[int, float]]

    def write(self, path: Path) -> None:
        """As JSON, a field a line."""
        lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(self).items())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read_trace(path: Path) -> Trace:
    """What `Trace.write` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return Trace(record["recipe"], record["start"], record["first"], [(s, loss) for s, loss in record["later"]])


def start_of(part: str) -> str:
    """A hash of the weights in the package that a part begins on; "" where it begins from nothing."""
    if part not in STARTS:
        return ""
    digest = hashlib.sha256()
    for name in STARTS[part]:
        for path in sorted(shipped(name).rglob("*.safetensors")):
            digest.update(path.relative_to(shipped(name)).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def first_losses(part: str, steps: int = FIRST) -> list[float]:
    """The losses of the first steps of a part's recipe, in float32, on the weights in the package."""
    with tempfile.TemporaryDirectory() as scratch:
        overrides = ["precision=no", "validate_batches=1"]
        if part in EMBEDDER:
            SeedTokenizer.from_pretrained().embedder.save_pretrained(Path(scratch, "embedder"))
            overrides.append(f"stage.{EMBEDDER[part]}={Path(scratch, 'embedder')}")
        if part in CAPTIONER:
            overrides.append(f"stage.start={shipped('lm_captions')}")
        run = set_up(recipe_named(f"mini.{part}", overrides), Path(scratch, "run"), resume=False)
        run.stage.train()
        data = run.batches()
        return [float(take_step(run, data, step)["loss"]) for step in range(steps)]


def logged_losses(run: Path) -> list[tuple[int, float]]:
    """The steps that a run logged, with their losses."""
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]


def thinned(logged: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Of logged steps after the first ones, those that are `APART` from another, and the last."""
    kept: list[tuple[int, float]] = []
    for step, loss in logged:
        if step >= FIRST and (not kept or step >= kept[-1][0] + APART or step == logged[-1][0]):
            kept.append((step, rounded(loss)))
    return kept


def rounded(loss: float) -> float:
    return float(f"{loss:.6g}")


def main(run: Path, folder: Path = KEPT) -> None:
    """Writes the trace of a run; ends with a message where the first steps are not those that the run logged."""
    recipe = json.loads((run / "config.json").read_text(encoding="utf-8"))["recipe"]
    part, logged = recipe.removeprefix("mini."), logged_losses(run)
    first = first_losses(part)
    for step, loss in logged:
        if part not in STAND_INS and step < FIRST and abs(first[step] - loss) > AS_LOGGED * abs(loss):
            sys.exit(
                f"{run} logged a loss of {loss:.5g} at step {step}, and the recipe gives {first[step]:.5g} on the "
                "weights in the package: ship those that the run began on, and give a run of the recipe as it is"
            )
    path = folder / f"{part}.json"
    Trace(recipe, start_of(part), [rounded(loss) for loss in first], thinned(logged)).write(path)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
