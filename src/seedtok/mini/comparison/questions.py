"""The questions, and the rows that answer each: which run is measured how, and in what a row differs."""

from dataclasses import dataclass

from seedtok.mini.comparison.runs import MASKS, NAMINGS
from seedtok.mini.reproduction.parts import SETS
from seedtok.mini.world.sets import WITH_NEAR_MISSES


@dataclass(frozen=True)
class Row:
    """A row of a table: the runs that are measured, by what `measure` (of `measures.MEASURES`) calls them.

    A measurement may give the scores of several rows, of which this one's are under `key`; rows of the same measurement
    of the same runs share it.
    """

    name: str
    differs: str
    measure: str
    runs: tuple[str, ...]
    key: str = ""

    @property
    def measurement(self) -> str:
        """The name of the measurement."""
        return "-".join((self.measure, *self.runs))


@dataclass(frozen=True)
class Question:
    """`terms` is what all rows have in common; `count` scenes of each set are measured."""

    title: str
    terms: str
    rows: tuple[Row, ...]
    count: int = 500
    smoke_count: int = 8
    sets: tuple[str, ...] = SETS


CODES = {"published": "codes, VQ as published", "restart": "codes, k-means and restart"}
NAMED = {"naming": "named", "unnamed": "not named"}

TABLE1 = Question(
    "Table 1: does causality cost retrieval?",
    "Stage I from one bidirectional Q-Former, on the same scenes, for the same steps, all parameters trained but the "
    "ViT; stage II on it, for the same steps. A bidirectional Q-Former is scored by the best of its queries, a causal "
    "one by its last. Named: with the loss that says what stands where.",
    tuple(
        Row(name := f"{mask}, {NAMED[naming]}, {kind}", name, measure, (run,))
        for mask in MASKS
        for naming in NAMINGS
        for kind, measure, run in (
            ("embeddings", "embeddings", f"{mask}-{naming}"),
            *((CODES[codebook], "codes", f"{mask}-{naming}-{codebook}") for codebook in CODES),
        )
    ),
    smoke_count=16,
    sets=(*SETS, *(f"{name}{WITH_NEAR_MISSES}" for name in SETS)),
)

TABLE2 = Question(
    "Table 2: does SEED draw what it saw?",
    "One diffusion model draws all of it, from the same noise; GILL's mapper and SEED's stage II have the same steps, "
    "batch and rate.",
    (
        Row("diffusion model", "draws from the caption", "generation", ("codebook-ema", "gill"), "caption"),
        Row("GILL", "draws from what the frozen OPT makes of it", "generation", ("codebook-ema", "gill"), "gill"),
        Row("SEED", "draws from the codes of the picture", "generation", ("codebook-ema", "gill"), "seed"),
    ),
    count=200,
    smoke_count=4,
    sets=("test",),
)  # fmt: skip

TABLE3 = Question(
    "Table 3: do codes serve a language model as well as embeddings?",
    "The same OPT, scenes, captions, batch and steps; LoRA, where there is any, of the same rank. Rows but SEED-OPT's "
    "have one stage and one rate. VQA is zero-shot but for the instructed row.",
    (
        Row("SEED-OPT", "IIIa and IIIb: LoRA, an FC layer and a visual head; of IIIb's samples a part are drawings; "
            "twice the rate, as its recipe has it",
            "reader", ("seed-opt",)),
        Row("SEED-OPT, instructed", "goes on from SEED-OPT with questions, for more steps", "reader",
            ("seed-opt-instructed",)),
        Row("SEED codes", "LoRA and an FC layer", "reader", ("read-seed-lora",)),
        Row("BLIP-2-style, LM frozen", "the Q-Former and an FC layer", "reader", ("read-blip2",)),
        Row("BLIP-2-style", "LoRA, the Q-Former and an FC layer", "reader", ("read-blip2-lora",)),
        Row("causal embeddings", "LoRA and an FC layer: an upper bound for codes", "reader", ("read-causal-lora",)),
        Row("blind prior", "the most frequent answer to each wording of a question, without the picture", "blind", ()),
    ),
)  # fmt: skip

PILOT = Question(
    "Pilot: do high-level tokens help?",
    "The same OPT, scenes, captions, batch, rate and steps; code vectors through one FC layer. Each tokenizer is "
    "trained once, with a codebook of 8192 x 32 that starts from k-means and restarts dead codes, for the same steps; "
    "seeds are of the language model.",
    tuple(
        Row(f"{tokens}, {label}", f"{what}; {trained}", "reader", (f"pilot-{name}-{way}",))
        for name, tokens, what in (
            ("vqvae", "VQ-VAE", "64 codes an image, trained on pixels"),
            ("beit2", "BEiT v2", "64 codes an image, trained on the image encoder's features"),
            ("seed", "SEED", "32 codes an image, trained on captions, from the image encoder's features"),
        )
        for way, label, trained in (
            ("projection", "projection alone", "the FC layer is trained"),
            ("lora", "LoRA", "the FC layer and LoRA are trained"),
        )
    ),
)

ORDER = Question(
    "Does causal order help the language model?",
    "SEED-OPT's two stages on the codes of three tokenizers, with the same steps and, but for the mask, the same "
    "stages I and II. The loss of the next code is of validation scenes.",
    (
        Row("causal codes", "the causal Q-Former's", "drawing", ("order-causal",)),
        Row("bidirectional codes", "of stage II on the bidirectional Q-Former", "drawing", ("order-bidirectional",)),
        Row("shuffled codes", "the causal Q-Former's in one fixed random order", "drawing", ("order-shuffled",)),
    ),
    count=200,
    smoke_count=4,
    sets=("test",),
)  # fmt: skip

CODEBOOK = Question(
    "Does the codebook collapse?",
    "Stage II on one causal Q-Former, for the same steps; each row is the one above with one thing added.",
    (
        Row("as published", "nearest neighbour, codebook trained by its loss, uniform start", "codebook",
            ("codebook-published",)),
        Row("k-means", "starts from k-means", "codebook", ("codebook-kmeans",)),
        Row("restart", "codes that are not used are restarted", "codebook", ("codebook-restart",)),
        Row("EMA", "moving averages in place of the codebook's loss: the recipe's", "codebook", ("codebook-ema",)),
        Row("L2", "inputs and codes L2-normalised", "codebook", ("codebook-l2",)),
    ),
    count=3000,
    smoke_count=16,
    sets=("test",),
)  # fmt: skip

QUESTIONS = {
    "table1": TABLE1, "table2": TABLE2, "table3": TABLE3, "pilot": PILOT, "order": ORDER, "codebook": CODEBOOK,
}  # fmt: skip
