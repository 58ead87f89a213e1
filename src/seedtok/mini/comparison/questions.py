"""The questions, and the rows that answer each: which run is measured how, and in what a row differs."""

from dataclasses import dataclass

from seedtok.mini.comparison.runs import MASKS, NAMINGS, ORDERS
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

    def scenes(self, smoke: bool) -> int:
        """How many scenes of each set are measured."""
        return self.smoke_count if smoke else self.count


CODES = {"published": "codes, VQ as published", "restart": "codes, k-means and restart"}
NAMED = {"naming": "named", "unnamed": "not named"}

SEEN = "which background, and which places are taken, without what stands there"
LAYOUT = Row("background and places alone", f"{SEEN}; ties in random order", "layout", ())

TABLE1 = Question(
    "Table 1: does causality cost retrieval?",
    "Stage I from one bidirectional Q-Former, on the same scenes, for the same steps, all parameters trained but the "
    "ViT; stage II on it, for the same steps. A bidirectional Q-Former is scored by the best of its queries, a causal "
    "one by its last. Named: with the loss that says what stands where.",
    (
        *(
            Row(name := f"{mask}, {NAMED[naming]}, {kind}", name, measure, (run,))
            for mask in MASKS
            for naming in NAMINGS
            for kind, measure, run in (
                ("embeddings", "embeddings", f"{mask}-{naming}"),
                *((CODES[codebook], "codes", f"{mask}-{naming}-{codebook}") for codebook in CODES),
            )
        ),
        LAYOUT,
    ),
    smoke_count=16,
    sets=(*SETS, *(f"{name}{WITH_NEAR_MISSES}" for name in SETS)),
)

TABLE2_RUNS = ("codebook-ema", "gill")
TABLE2 = Question(
    "Table 2: does SEED draw what it saw?",
    "One diffusion model draws all of it, from the same noise; GILL's mapper and SEED's stage II have the same steps, "
    "batch and rate. SEED's Q-Former was trained before, with the loss that says what stands where; what its codes "
    "start from weighs as much as a batch.",
    (
        Row("diffusion model", "draws from the caption; of the seeds only the noise differs", "generation", TABLE2_RUNS,
            "caption"),
        Row("GILL", "draws from what the frozen OPT makes of the caption", "generation", TABLE2_RUNS, "gill"),
        Row("SEED", "draws from the codes of the picture", "generation", TABLE2_RUNS, "seed"),
        Row("true pictures", "what the judge finds in them; similarity of the nearest other one", "generation",
            TABLE2_RUNS, "true"),
        Row("random pictures", "similarity of a random other true picture", "generation", TABLE2_RUNS, "random"),
    ),
    count=200,
    smoke_count=4,
    sets=("test",),
)  # fmt: skip

BLIND = Row("blind prior", "the most frequent answer to each wording of a question, without the picture", "blind", ())
LAYOUT_ANSWERS = Row(
    "background and places alone", f"{SEEN}; the most frequent answer by that and wording", "layout_answers", ()
)

TABLE3 = Question(
    "Table 3: do codes serve a language model as well as embeddings?",
    "The same OPT, scenes, batch and steps; LoRA, where there is any, of the same rank. Before, all Q-Formers had the "
    "same steps and losses, of one seed. Vectors are read with zero mean and unit variance, but for SEED-OPT's, which "
    "are the codebook's own, of which all codes share a mean. SEED-OPT has the rate of its recipe, twice that of the "
    "others, in two schedules, a head that scores codes by their neighbours too, and under half of its samples are "
    "captions. An FC layer reads 32 numbers of a code and 256 of an embedding. VQA is zero-shot but for the instructed "
    "row; texts that are replayed, to SEED-OPT alone, have questions with answers about scenes without a picture.",
    (
        Row("SEED-OPT", "IIIa, then IIIb from the same scenes on: LoRA, an FC layer and a visual head; samples are "
            "captions, drawings and a fifth text that the OPT knows", "reader", ("seed-opt",)),
        Row("SEED-OPT without text", "no text is replayed: its share of the samples is captions too", "reader",
            ("seed-opt-no-replay",)),
        Row("SEED-OPT, instructed", "goes on from SEED-OPT with questions, for more steps", "reader",
            ("seed-opt-instructed",)),
        Row("SEED codes", "captions alone, no marks around an image: LoRA and an FC layer", "reader",
            ("read-seed-lora",)),
        Row("BLIP-2-style, LM frozen", "captions alone: an FC layer, and the bidirectional Q-Former at a tenth of the "
            "rate", "reader", ("read-blip2",)),
        Row("BLIP-2-style", "captions alone: LoRA, an FC layer, and the bidirectional Q-Former at a tenth of the rate",
            "reader", ("read-blip2-lora",)),
        Row("bidirectional embeddings", "captions alone, of the Q-Former as it is: LoRA and an FC layer", "reader",
            ("read-bidirectional-lora",)),
        Row("causal embeddings", "captions alone, what SEED's codes are made of: LoRA and an FC layer", "reader",
            ("read-causal-lora",)),
        BLIND,
        LAYOUT_ANSWERS,
    ),
    count=300,
)  # fmt: skip

PILOT = Question(
    "Pilot: do high-level tokens help?",
    "The same OPT, scenes, captions, batch and steps, and the same rate in rows of a projection alone, ten times that "
    "of rows with LoRA; code vectors, with zero mean and unit variance over the codebook, through one FC layer. Each "
    "tokenizer is trained once, with a codebook of 8192 x 32 that starts from k-means and restarts dead codes, for the "
    "same steps; before that SEED's Q-Former was trained, and the others have no such part. Seeds are of the language "
    "model.",
    (
        *(
            Row(f"{tokens}, {label}", f"{what}; {trained}", "reader", (f"pilot-{name}-{way}",))
            for name, tokens, what in (
                ("vqvae", "VQ-VAE", "64 codes an image, trained on pixels"),
                ("beit2", "BEiT v2", "64 codes an image, trained on the image encoder's features"),
                ("seed", "SEED", "32 codes an image, from the image encoder's features, trained on captions and on "
                    "what stands where"),
            )
            for way, label, trained in (
                ("projection", "projection alone", "the FC layer is trained"),
                ("lora", "LoRA", "the FC layer and LoRA are trained"),
            )
        ),
        BLIND,
        LAYOUT_ANSWERS,
    ),
    count=300,
)  # fmt: skip

ORDER = Question(
    "Does causal order help the language model?",
    "Stage II and SEED-OPT's two stages for the same steps, on two Q-Formers that were trained before, of one seed, "
    "from nothing for the same steps. The loss that says what stands where orders the codes of both by places. So what "
    "tells of the mask is what shuffling costs, in one fixed random order: the loss, in nats a code after the caption, "
    "compares the two orders of one tokenizer's codes, and not two tokenizers, one of which may say less. Beside what "
    "is right in drawings: in those from the picture's own codes.",
    tuple(
        Row(f"{mask} codes{order.replace('-', ', ')}", f"of stage II on the {mask} Q-Former"
            f"{', in a fixed random order' if order else ''}", "drawing", (f"order-{mask}{order}",))
        for mask in MASKS
        for order in ORDERS
    ),
    count=100,
    smoke_count=4,
    sets=("test",),
)  # fmt: skip

CODEBOOK = Question(
    "Does the codebook collapse?",
    "Stage II on one causal Q-Former, of one seed, for the same steps; each row is the one above with one thing added.",
    (
        Row("as published", "nearest neighbour, codebook trained by its loss, uniform start", "codebook",
            ("codebook-published",)),
        Row("k-means", "starts from k-means", "codebook", ("codebook-kmeans",)),
        Row("restart", "codes that are not used are restarted", "codebook", ("codebook-restart",)),
        Row("EMA", "moving averages in place of the codebook's loss, as in the recipe, but that what codes start from "
            "weighs as much as a batch", "codebook", ("codebook-ema",)),
        Row("L2", "inputs and codes L2-normalised", "codebook", ("codebook-l2",)),
        LAYOUT,
    ),
    count=3000,
    smoke_count=16,
    sets=("test",),
)  # fmt: skip

QUESTIONS = {
    "table1": TABLE1, "table2": TABLE2, "table3": TABLE3, "pilot": PILOT, "order": ORDER, "codebook": CODEBOOK,
}  # fmt: skip
