"""SEED: images as 32 causal, discrete tokens, and a language model that reads and writes them like words.

`SeedTokenizer` and `SeedLM` are the two models. `SeedLMConfig`, `SeedLMForConditionalGeneration` and `SeedProcessor`
are the second as classes of transformers. The others are configurations, and the errors that are raised.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seedtok.core.errors import (
        BusyError,
        CheckpointError,
        ConfigError,
        DataError,
        ImageError,
        InputError,
        SeedTokError,
        SeedTokWarning,
        TrainingError,
    )
    from seedtok.lm.adapter import AdapterConfig
    from seedtok.lm.auto import SeedLMConfig, SeedLMForConditionalGeneration, SeedProcessor
    from seedtok.lm.seed_lm import SeedLM
    from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder
    from seedtok.tokenizer.seed import SeedTokenizer
    from seedtok.tokenizer.seed_config import SeedConfig

__all__ = [
    "AdapterConfig", "BusyError", "CheckpointError", "ConfigError", "DataError", "EmbedderConfig", "ImageError",
    "ImageTextEmbedder", "InputError", "SeedConfig", "SeedLM", "SeedLMConfig", "SeedLMForConditionalGeneration",
    "SeedProcessor", "SeedTokError", "SeedTokWarning", "SeedTokenizer", "TrainingError", "__version__",
]  # fmt: skip
__version__ = "0.1.0"

_MODULES = {
    "AdapterConfig": "lm.adapter",
    "EmbedderConfig": "tokenizer.embedder",
    "ImageTextEmbedder": "tokenizer.embedder",
    "SeedConfig": "tokenizer.seed_config",
    "SeedLM": "lm.seed_lm",
    "SeedLMConfig": "lm.auto",
    "SeedLMForConditionalGeneration": "lm.auto",
    "SeedProcessor": "lm.auto",
    "SeedTokenizer": "tokenizer.seed",
}


def __getattr__(name: str) -> Any:
    """Imports a class when it is first asked for, so that `import seedtok` does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"seedtok.{_MODULES.get(name, 'core.errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
