"""SEED: pictures as 32 causal, discrete tokens, and a language model that reads and writes them like words."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seedtok.lm.seed_lm import SeedLM
    from seedtok.tokenizer.seed import SeedTokenizer

__all__ = ["SeedLM", "SeedTokenizer", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports torch and its like when first asked for a class, so that `import seedtok` takes no time."""
    if name == "SeedTokenizer":
        from seedtok.tokenizer.seed import SeedTokenizer

        return SeedTokenizer
    if name == "SeedLM":
        from seedtok.lm.seed_lm import SeedLM

        return SeedLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
