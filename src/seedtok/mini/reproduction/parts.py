"""What there is to train and to measure, in which order, and how long or, for a smoke test, how briefly."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from seedtok.mini import recipes
from seedtok.training.config import RunConfig

SETS = ("test", "test-unseen-hands")


@dataclass(frozen=True)
class Part:
    """A training run: a recipe, and which of its settings are the results of other parts."""

    name: str
    recipe: Callable[[], RunConfig]
    inputs: dict[str, str] = field(default_factory=dict)  # a setting -> the part whose result it is
    smoke: tuple[str, ...] = ()  # settings of the smoke test, beside those of `SMOKE`

    def overrides(self, out: Path, smoke: bool) -> list[str]:
        """The settings of this run in a reproduction's folder."""
        inputs = [f"{key}={result(out, part)}" for key, part in self.inputs.items()]
        return [*inputs, *(SMOKE + self.smoke if smoke else ())]


@dataclass(frozen=True)
class Table:
    """A measurement, of `count` scenes of a set, that takes the results of parts."""

    name: str
    needs: tuple[str, ...]
    count: int
    smoke_count: int
    sets: tuple[str, ...] = SETS


def result(out: Path, part: str) -> Path:
    """Where the result of a part lies in the folder of a reproduction."""
    return out / "runs" / part / "final"


SMOKE = (
    "optimization.steps=12", "optimization.warmup_steps=4", "optimization.batch_size=8", "log_every=4",
    "validate_every=12", "validate_batches=1", "checkpoint_every=1000",
)  # fmt: skip
LM = {"stage.base": "opt", "stage.tokenizer": "stage2"}

PARTS = (
    Part("vision", recipes.vision),
    Part("text", recipes.text),
    Part("autoencoder", recipes.autoencoder),
    Part("opt", recipes.opt),
    Part("judge", recipes.judge),
    Part("eval_clip", recipes.eval_clip),
    Part("diffusion", recipes.diffusion, {"stage.clip": "text", "stage.autoencoder": "autoencoder"}),
    Part("bidirectional", recipes.bidirectional, {"stage.clip": "vision"}),
    Part("stage1", recipes.stage1, {"stage.start": "bidirectional"}),
    Part(
        "stage2", recipes.stage2, {"stage.embedder": "stage1", "stage.image_decoder": "diffusion"},
        ("stage.codebook_size=256", "stage.kmeans_per_code=1"),
    ),
    Part("stage3a", recipes.stage3a, LM),
    Part("stage3b", recipes.stage3b, LM | {"stage.start": "stage3a"}),
    Part("instructed", recipes.instructed, LM | {"stage.start": "stage3b"}),
    Part("blip2", recipes.blip2, {"stage.base": "opt", "stage.qformer": "bidirectional"}),
)  # fmt: skip

TABLES = (
    Table("retrieval", ("bidirectional", "stage2"), 1000, 16),
    Table("codebook", ("stage2",), 20_000, 64, ("test",)),
    Table("generation", ("stage2", "judge", "eval_clip"), 500, 4),
    Table("captioning", ("stage3b", "instructed", "blip2"), 1000, 8),
    Table("vqa", ("stage3b", "instructed", "blip2"), 1000, 8),
    Table("drawing", ("instructed", "judge", "eval_clip"), 500, 4, ("test",)),
)
