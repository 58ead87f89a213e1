"""The training runs of all comparisons. Each is a recipe and the settings in which it differs from others.

Runs that are compared have one recipe, so that start, data, batch, rate and steps are the same, but where the terms of
a question say otherwise (`questions`). What stands on another run of a comparison is trained for each seed on that of
the same seed. What all of them stand on, the foundations of a reproduction, is trained once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from seedtok.mini import recipes
from seedtok.mini.parts import Part
from seedtok.mini.reproduction.parts import LM, PARTS
from seedtok.stages.autoregression import AutoregressionSettings
from seedtok.stages.quantization import QuantizationSettings

VECTORS = 32  # of an image, which codes stand for
PROJECTION_RATE = 10.0  # of a reader that trains its projection alone, of the rate of one with LoRA
SMALL_CODEBOOK = ("stage.codebook_size=256", "stage.kmeans_per_code=1")  # of smoke tests


@dataclass(frozen=True)
class Terms:
    """How runs are compared: each with seeds 1 to `seeds`, and its steps, batch and learning rate times these scales.

    Smaller batches learn better at a lower rate: about by the square root of their scale. Seed 0 is that of what they
    stand on, whose scenes they would see again. That is the package's own with `shipped`, else what is trained in the
    same folder first, and its steps, batch and rate are never scaled. `precision` is that of products while runs are
    trained, on whatever machine they go on.
    """

    seeds: int = 3
    steps_scale: float = 1.0
    batch_scale: float = 1.0
    rate_scale: float = 1.0
    shipped: bool = False
    precision: str = "auto"

    @property
    def seed_numbers(self) -> range:
        return range(1, self.seeds + 1)

    def kept(self) -> dict[str, float | bool | str]:
        """What all comparisons of a folder have in common."""
        scales = {"steps_scale": self.steps_scale, "batch_scale": self.batch_scale, "rate_scale": self.rate_scale}
        return {**scales, "shipped": self.shipped, "precision": self.precision}


@dataclass(frozen=True)
class ComparedRun:
    """A training run that is repeated for each seed.

    `steps`, if given, replaces the recipe's number of steps; `rate` is what its learning rate is multiplied by.
    """

    part: Part
    steps: int | None = None
    rate: float = 1.0

    def budget(self, terms: Terms) -> list[str]:
        """Steps, warm-up, batch and rate, as settings; what a recipe counts in batches stays of as many pictures.

        What starts from the mean and deviation of some first batches is of that many smaller ones.
        """
        recipe = self.part.recipe()
        own, batches, rate = recipe.optimization, 1 / terms.batch_scale, self.rate * terms.rate_scale
        settings: dict[str, float] = {
            "optimization.steps": max(1, round((self.steps or own.steps) * terms.steps_scale)),
            "optimization.warmup_steps": max(1, round(own.warmup_steps * terms.steps_scale)),
            "optimization.batch_size": max(1, round(own.batch_size * terms.batch_scale)),
            "optimization.lr": own.lr * rate,
            "optimization.min_lr": own.min_lr * rate,
            "validate_batches": max(1, round(recipe.validate_batches * batches)),
        }
        if isinstance(recipe.stage, QuantizationSettings):
            restart_after, decay = recipe.stage.restart_after, recipe.stage.ema_decay
            if restart_after is not None:
                settings["stage.restart_after"] = max(1, round(restart_after * batches))
            if decay is not None:
                settings["stage.ema_decay"] = decay**terms.batch_scale
                # so that what codes start from weighs as much as one batch: else few steps do not move them
                vectors = settings["optimization.batch_size"] * VECTORS
                settings["stage.start_weight"] = vectors / (recipe.stage.kmeans_per_code * recipe.stage.codebook_size)
        return [f"{name}={value}" for name, value in settings.items()]


def seeded(run: str, seed: int) -> str:
    """The name of a run with one seed."""
    return f"{run}/seed{seed}"


def part_of(run: ComparedRun, seed: int, terms: Terms, smoke: bool) -> Part:
    """A run with one seed, on runs of the same seed."""
    part = run.part
    inputs = {key: seeded(name, seed) if name in RUNS else name for key, name in part.inputs.items()}
    budget = [] if smoke else [*run.budget(terms), f"precision={terms.precision}"]
    return replace(
        part, name=seeded(part.name, seed), inputs=inputs, settings=(*budget, *part.settings, f"seed={seed}")
    )


def parts_of(seeds: Iterable[int], terms: Terms = Terms(), smoke: bool = False) -> dict[str, Part]:
    """All that can be trained, by name: foundations, and each run with each seed."""
    compared = [part_of(run, seed, terms, smoke) for seed in seeds for run in RUNS.values()]
    return {part.name: part for part in (*FOUNDATIONS, *compared)}


# ---------------------------------------------------------------- Q-Formers and codebooks

MASKS = {"causal": "stage.causal=true", "bidirectional": "stage.causal=false"}
NAMINGS = {"naming": (), "unnamed": ("stage.auxiliary=none",)}
CODEBOOKS = {
    "published": ("stage.kmeans_per_code=0", "stage.restart_after=none", "stage.ema_decay=none"),
    "kmeans": ("stage.restart_after=none", "stage.ema_decay=none"),
    "restart": ("stage.ema_decay=none",),
    "ema": (),  # the recipe's own
    "l2": ("stage.normalize=true",),
}


def _qformers() -> list[Part]:
    """Stage I from one and the same bidirectional Q-Former, with each mask, with and without the naming loss."""
    start = {"stage.start": "bidirectional"}
    return [
        Part(f"{mask}-{naming}", recipes.stage1, start, settings=(setting, *without))
        for mask, setting in MASKS.items()
        for naming, without in NAMINGS.items()
    ]


def _tokenizer(name: str, embedder: str, codebook: str) -> Part:
    inputs = {"stage.embedder": embedder, "stage.image_decoder": "diffusion"}
    small = SMALL_CODEBOOK[:1] if codebook == "published" else SMALL_CODEBOOK
    return Part(name, recipes.stage2, inputs, small, CODEBOOKS[codebook])


def _tokenizers() -> list[Part]:
    """Stage II with two codebooks on each of the Q-Formers, and with all codebooks on the reproduction's own.

    Then as in the recipe on a Q-Former of each mask, from nothing.
    """
    on_each = [
        _tokenizer(f"{qformer.name}-{codebook}", qformer.name, codebook)
        for qformer in _qformers()
        for codebook in ("published", "restart")
    ]
    of_codebooks = [_tokenizer(f"codebook-{name}", "stage1", name) for name in CODEBOOKS]
    return [*on_each, *of_codebooks, *(_tokenizer(f"{mask}-codes", f"{mask}-from-nothing", "ema") for mask in MASKS)]


# ---------------------------------------------------------------- language models

ORDERS = {"": (), "-shuffled": ("stage.shuffle_codes=0",)}  # of an image's codes


def _lora() -> tuple[str, ...]:
    """LoRA of a `PrefixLM`, as that of SEED-OPT."""
    settings = recipes.stage3a().stage
    assert isinstance(settings, AutoregressionSettings)
    return f"stage.rank={settings.rank}", f"stage.alpha={settings.alpha}", f"stage.dropout={settings.dropout}"


def _seed_opts(name: str, tokenizer: str, settings: tuple[str, ...] = ()) -> list[Part]:
    """SEED-OPT on the codes of a tokenizer: stage IIIa, and IIIb from it."""
    inputs = LM | {"stage.tokenizer": tokenizer}
    first = Part(f"{name}-a", recipes.stage3a, inputs, settings=settings)
    return [first, Part(name, recipes.stage3b, inputs | {"stage.start": first.name}, settings=settings)]


def _language_models() -> list[Part]:
    instructed = Part("seed-opt-instructed", recipes.instructed, LM | {"stage.start": "seed-opt"})
    without_text = _seed_opts("seed-opt-no-replay", "stage2", ("stage.replay=0",))
    orders = [
        part
        for mask in MASKS
        for order, settings in ORDERS.items()
        for part in _seed_opts(f"order-{mask}{order}", f"{mask}-codes", settings)
    ]
    return [*_seed_opts("seed-opt", "stage2"), instructed, *without_text, *orders]


def _readers() -> list[Part]:
    """Table 3: what the same stage makes of embeddings and of codes."""
    base, lora = {"stage.base": "opt"}, _lora()
    embeddings, frozen = base | {"stage.qformer": "bidirectional-named"}, ("stage.train_qformer=false",)
    slowly = ("stage.qformer_share=0.1",)  # at the whole rate it forgot, by most seeds, which things there are
    return [
        Part("read-blip2", recipes.blip2, embeddings, settings=slowly),
        Part("read-blip2-lora", recipes.blip2, embeddings, settings=(*slowly, *lora)),
        Part("read-bidirectional-lora", recipes.blip2, embeddings, settings=(*frozen, *lora)),
        Part("read-causal-lora", recipes.blip2, base | {"stage.qformer": "stage1"}, settings=(*frozen, *lora)),
        Part("read-seed-lora", recipes.reader, base | {"stage.tokens": "stage2"}, settings=lora),
    ]


def _pilots() -> list[ComparedRun]:
    """The pilot: three kinds of tokens, each read with a projection alone and with LoRA.

    At the rate of LoRA, one matrix hardly learns in as many steps.
    """
    return [
        ComparedRun(
            Part(f"pilot-{name}-{way}", recipes.reader, {"stage.base": "opt", "stage.tokens": tokens}, settings=ways),
            rate=rate,
        )
        for name, tokens in (("vqvae", "vqvae"), ("beit2", "beit2"), ("seed", "stage2"))
        for way, ways, rate in (("projection", (), PROJECTION_RATE), ("lora", _lora(), 1.0))
    ]


def _runs() -> dict[str, ComparedRun]:
    seed_opt = recipes.stage3a().optimization.steps + recipes.stage3b().optimization.steps
    gill = Part("gill", recipes.gill, {"stage.base": "opt", "stage.image_decoder": "diffusion"})
    runs = [ComparedRun(part) for part in (*_qformers(), *_tokenizers(), *_language_models(), gill)]
    readers = [ComparedRun(part, seed_opt) for part in _readers()]
    return {run.part.name: run for run in (*runs, *_pilots(), *readers)}


RUNS = _runs()
FOUNDATIONS = (
    *PARTS,
    # of BLIP-2-style readers: as long in training as stage I's Q-Former, and with its losses
    Part("bidirectional-named", recipes.stage1, {"stage.start": "bidirectional"}, settings=(MASKS["bidirectional"],)),
    # of codes of either mask: from nothing, since what one mask taught is of little use under the other
    *(
        Part(f"{mask}-from-nothing", recipes.stage1, {"stage.clip": "vision"}, settings=("stage.start=none", setting))
        for mask, setting in MASKS.items()
    ),
    Part("vqvae", recipes.vqvae, smoke=SMALL_CODEBOOK),
    Part("beit2", recipes.beit2, {"stage.teacher": "vision"}, SMALL_CODEBOOK),
)
