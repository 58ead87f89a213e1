"""What a fine-tuning starts from: a SEED language model taken apart into what each stage goes on with, and scenes."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedtok.core.errors import ConfigError
from seedtok.core.hub import local_folder, resolve
from seedtok.core.text import clean_caption
from seedtok.data.shard_writer import holds_shards
from seedtok.evaluation.dataset import EvaluationSet
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.world.scenes import SIZES
from seedtok.mini.world.shards import write_scene_shards
from seedtok.tokenizer.unknown_words import KNOWN_WORDS

SCENES = 2000  # that are mixed with one's own pictures, so that what was known is not forgotten


@dataclass(frozen=True)
class Start:
    """Settings, as dotted `key=value`, of each stage; and the least number of tokens of a caption."""

    settings: dict[str, list[str]]
    caption_tokens: int


def load(model: str) -> SeedLM:
    """Loads a SEED language model; raises ConfigError for one that cannot be trained further."""
    lm = SeedLM.from_pretrained(model)
    if lm.joint.adapter is None or lm.seed.embedder.text_tokenizer is None:
        raise ConfigError(f"{model} cannot be trained further: give a SEED language model with an adapter, as mini is")
    return lm


def prepare(lm: SeedLM, model: str, pictures: EvaluationSet, out: Path, scenes: int) -> Start:
    """Writes OUT/start, with what stages take of a language model that is no checkpoint of its own, and OUT/scenes.

    `model` is what it was loaded from, and `pictures` are those to learn from.
    """
    seed = lm.seed
    embedder = out / "start" / "embedder"
    seed.embedder.save_pretrained(embedder)
    vision, size = seed.config.embedder.vision.image_size, max(SIZES)
    if not holds_shards(out / "scenes"):
        write_scene_shards(out / "scenes", "train", scenes, size, classic=False)
    texts = [clean_caption(text) for entry in pictures for text in entry.captions]
    tokens = [len(lm.joint.text_ids(" " + text)) for text in texts]
    settings = {
        "stage1": [
            f"stage.start={embedder}", f"stage.causal={str(seed.config.embedder.qformer.causal).lower()}",
            f"stage.positions={str(seed.config.embedder.positions).lower()}",
        ],
        "stage2": [f"stage.start={seed.source}", f"stage.image_decoder={seed.image_decoder_source}"],
        "stage3": [f"stage.base={_base(lm, texts, out / 'start' / 'base')}", f"stage.start={resolve(model, 'lm')}"],
    }  # fmt: skip
    for own in settings.values():
        own.append(f"data.size={vision}")
    return Start(settings, min(lm.template.caption_tokens, *tokens))


def _base(lm: SeedLM, texts: list[str], folder: Path) -> str:
    """The source of the base; where its text tokenizer lists known words, a copy whose list has those of texts too."""
    tokenizer: Any = lm.joint.text_tokenizer
    known, source = tokenizer.init_kwargs.get(KNOWN_WORDS), local_folder(lm.source.base, "opt")
    if not isinstance(known, list) or source is None:
        return lm.source.base
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    shutil.copytree(source, folder, dirs_exist_ok=True)
    tokenizer.init_kwargs[KNOWN_WORDS] = sorted({*known, *words})
    tokenizer.save_pretrained(str(folder))
    return str(folder)
