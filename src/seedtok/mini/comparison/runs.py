"""The training runs of all comparisons. Each is a recipe and the settings in which it differs from others.

Runs that are compared have one recipe, so that start, data, batch, rate and steps are the same; what stands on another
run of a comparison is trained for each seed on that of the same seed. What all of them stand on, the foundations of a
reproduction, is trained once.
"""

from dataclasses import dataclass, replace

from seedtok.mini import recipes
from seedtok.mini.parts import Part
from seedtok.mini.reproduction.parts import LM, PARTS
from seedtok.stages.autoregression import AutoregressionSettings

SMALL_CODEBOOK = ("stage.codebook_size=256", "stage.kmeans_per_code=1")  # of smoke tests


@dataclass(frozen=True)
class Terms:
    """How runs are compared: each with `seeds` seeds, its steps and batch times `steps_scale` and `batch_scale`.

    They stand on the package's own parts with `shipped`, else on those that are trained in the same folder first.
    """

    seeds: int = 3
    steps_scale: float = 1.0
    batch_scale: float = 1.0
    shipped: bool = False

    def kept(self) -> dict[str, float | bool]:
        """What all comparisons of a folder have in common."""
        return {"steps_scale": self.steps_scale, "batch_scale": self.batch_scale, "shipped": self.shipped}


@dataclass(frozen=True)
class ComparedRun:
    """A training run that is repeated for each seed; `steps`, if given, replaces the recipe's number of steps."""

    part: Part
    steps: int | None = None

    def budget(self, terms: Terms) -> list[str]:
        """Steps, warm-up and batch, as settings."""
        own = self.part.recipe().optimization
        steps, warmup = (
            max(1, round(count * terms.steps_scale)) for count in (self.steps or own.steps, own.warmup_steps)
        )
        batch = max(1, round(own.batch_size * terms.batch_scale))
        return [f"optimization.{key}" for key in (f"steps={steps}", f"warmup_steps={warmup}", f"batch_size={batch}")]


def seeded(run: str, seed: int) -> str:
    """The name of a run with one seed."""
    return f"{run}/seed{seed}"


def part_of(run: ComparedRun, seed: int, terms: Terms, smoke: bool) -> Part:
    """A run with one seed, on runs of the same seed."""
    part = run.part
    inputs = {key: seeded(name, seed) if name in RUNS else name for key, name in part.inputs.items()}
    budget = [] if smoke else run.budget(terms)
    return replace(
        part, name=seeded(part.name, seed), inputs=inputs, settings=(*part.settings, *budget, f"seed={seed}")
    )


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
    """Stage II with two codebooks on each of the Q-Formers, and with all codebooks on the reproduction's own."""
    on_each = [
        _tokenizer(f"{qformer.name}-{codebook}", qformer.name, codebook)
        for qformer in _qformers()
        for codebook in ("published", "restart")
    ]
    return [*on_each, *(_tokenizer(f"codebook-{name}", "stage1", name) for name in CODEBOOKS)]


# ---------------------------------------------------------------- language models


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
    orders = [
        *_seed_opts("order-causal", "causal-naming-restart"),
        *_seed_opts("order-bidirectional", "bidirectional-naming-restart"),
        *_seed_opts("order-shuffled", "causal-naming-restart", ("stage.shuffle_codes=0",)),
    ]
    return [*_seed_opts("seed-opt", "stage2"), instructed, *orders]


def _readers() -> list[Part]:
    """Table 3: what the same stage makes of embeddings and of codes."""
    base, lora = {"stage.base": "opt"}, _lora()
    embeddings, frozen = base | {"stage.qformer": "bidirectional"}, ("stage.train_qformer=false",)
    return [
        Part("read-blip2", recipes.blip2, embeddings),
        Part("read-blip2-lora", recipes.blip2, embeddings, settings=lora),
        Part("read-causal-lora", recipes.blip2, base | {"stage.qformer": "stage1"}, settings=(*frozen, *lora)),
        Part("read-seed-lora", recipes.reader, base | {"stage.tokens": "stage2"}, settings=lora),
    ]


def _pilots() -> list[Part]:
    """The pilot: three kinds of tokens, each read with a projection alone and with LoRA."""
    return [
        Part(f"pilot-{name}-{way}", recipes.reader, {"stage.base": "opt", "stage.tokens": tokens}, settings=settings)
        for name, tokens in (("vqvae", "vqvae"), ("beit2", "beit2"), ("seed", "stage2"))
        for way, settings in (("projection", ()), ("lora", _lora()))
    ]


def _runs() -> dict[str, ComparedRun]:
    seed_opt = recipes.stage3a().optimization.steps + recipes.stage3b().optimization.steps
    gill = Part("gill", recipes.gill, {"stage.base": "opt", "stage.image_decoder": "diffusion"})
    parts = [*_qformers(), *_tokenizers(), *_language_models(), *_pilots(), gill]
    return {p.name: ComparedRun(p) for p in parts} | {p.name: ComparedRun(p, seed_opt) for p in _readers()}


RUNS = _runs()
FOUNDATIONS = (
    *PARTS,
    Part("vqvae", recipes.vqvae, smoke=SMALL_CODEBOOK),
    Part("beit2", recipes.beit2, {"stage.teacher": "vision"}, SMALL_CODEBOOK),
)
