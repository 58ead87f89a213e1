"""What there is to train and to measure, in which order, and how long or, for a smoke test, how briefly."""

from dataclasses import dataclass

from seedtok.mini import recipes
from seedtok.mini.parts import Part

SETS = ("test", "test-unseen-hands")


@dataclass(frozen=True)
class Table:
    """A measurement, of `count` scenes of a set, that takes the results of parts."""

    name: str
    needs: tuple[str, ...]
    count: int
    smoke_count: int
    sets: tuple[str, ...] = SETS


LM = {"stage.base": "opt", "stage.tokenizer": "stage2"}

PARTS = (
    Part("vision", recipes.vision),
    Part("text", recipes.text),
    Part("autoencoder", recipes.autoencoder),
    Part("opt", recipes.opt),
    Part("eval_clip", recipes.eval_clip),
    Part("diffusion", recipes.diffusion, {"stage.clip": "text", "stage.autoencoder": "autoencoder"}),
    Part("judge", recipes.judge, {"stage.image_decoder": "diffusion"}),
    Part("bidirectional", recipes.bidirectional, {"stage.clip": "vision"}),
    Part("stage1", recipes.stage1, {"stage.start": "bidirectional"}),
    Part(
        "stage2", recipes.stage2, {"stage.embedder": "stage1", "stage.image_decoder": "diffusion"},
        ("stage.codebook_size=256", "stage.kmeans_per_code=1"),
    ),
    Part("lcm", recipes.lcm, {"stage.teacher": "diffusion", "stage.tokenizer": "stage2"}),
    Part("stage3a", recipes.stage3a, LM),
    Part("stage3b", recipes.stage3b, LM | {"stage.start": "stage3a"}),
    Part("instructed", recipes.instructed, LM | {"stage.start": "stage3b"}),
    Part("blip2", recipes.blip2, {"stage.base": "opt", "stage.qformer": "bidirectional"}),
)  # fmt: skip

TABLES = (
    Table("retrieval", ("bidirectional", "stage2"), 1000, 16),
    Table("codebook", ("stage2",), 20_000, 64, ("test",)),
    Table("generation", ("stage2", "lcm", "judge", "eval_clip"), 500, 4),
    Table("captioning", ("stage3b", "instructed", "blip2"), 1000, 8),
    Table("vqa", ("stage3b", "instructed", "blip2"), 1000, 8),
    Table("drawing", ("instructed", "judge", "eval_clip"), 500, 4, ("test",)),
)
