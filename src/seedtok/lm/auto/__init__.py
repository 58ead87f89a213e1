"""A SEED language model as classes of transformers, for its Auto classes, `generate` and pipelines.

Importing this package registers them. A folder that `SeedLM.save_transformers` wrote names them too, under `auto_map`,
so that `trust_remote_code=True` finds them where nothing of seedtok was imported before.
"""

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from seedtok.lm.auto.config import SeedLMConfig
from seedtok.lm.auto.modeling import SeedLMForConditionalGeneration
from seedtok.lm.auto.processing import SeedProcessor

__all__ = ["SeedLMConfig", "SeedLMForConditionalGeneration", "SeedProcessor"]

AutoConfig.register(SeedLMConfig.model_type, SeedLMConfig)
AutoModelForImageTextToText.register(SeedLMConfig, SeedLMForConditionalGeneration)
AutoModelForMultimodalLM.register(SeedLMConfig, SeedLMForConditionalGeneration)
AutoProcessor.register(SeedLMConfig, SeedProcessor)
