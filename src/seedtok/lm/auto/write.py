"""A SEED language model as a folder for transformers' Auto classes."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AddedToken, GenerationConfig

from seedtok.core.hub import without_paths
from seedtok.core.notices import quietly
from seedtok.lm.auto.config import SeedLMConfig
from seedtok.lm.auto.modeling import SeedLMForConditionalGeneration
from seedtok.lm.auto.processing import SeedProcessor
from seedtok.lm.chat_template import IMAGE, chat_template_of
from seedtok.lm.model import JointLM
from seedtok.lm.native import Template
from seedtok.lm.plain import extended_tokenizer, fold
from seedtok.lm.plain_files import entry_of
from seedtok.tokenizer.seed import SeedTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@quietly("transformers")
def write_transformers(model: JointLM, seed: SeedTokenizer, template: Template, new: Path) -> None:
    """Writes model and processor into the existing folder `new`.

    The image tokenizer is written too, unless it is on a hub or shipped with this package. Raises CheckpointError for
    an LM that does not fold.
    """
    tokenizer = _tokenizer(model)
    image_token = cast(int, tokenizer.convert_tokens_to_ids(IMAGE))
    lm = fold(model)
    entry = entry_of(model, seed, template)
    config = SeedLMConfig(text_config=lm.config, seedtok=entry, image_token_id=image_token, dtype=lm.dtype)
    with torch.device("meta"):
        network = SeedLMForConditionalGeneration(config)
    network.language_model = lm
    network.use_image_tokenizer(seed)
    settings = lm.generation_config or GenerationConfig()
    settings.update(eos_token_id=model.end_ids or None, pad_token_id=tokenizer.pad_token_id)
    network.generation_config = settings
    network.save_pretrained(new)
    vision, asks = seed.config.embedder.vision, chat_template_of(template)
    SeedProcessor(tokenizer, entry["layout"], vision.image_size, asks, vision.interpolation).save_pretrained(new)
    without_paths(new)


def _tokenizer(model: JointLM) -> PreTrainedTokenizerBase:
    """The text tokenizer with the visual tokens, `<image>` after them, and a token that pads."""
    with tempfile.TemporaryDirectory() as scratch:
        if model.adapter is not None:
            tokenizer: Any = extended_tokenizer(model, Path(scratch))
        else:
            tokenizer = copy.deepcopy(model.text_tokenizer)
    tokenizer.add_tokens([AddedToken(IMAGE, normalized=False, special=True)], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.pad_id)
    return tokenizer
