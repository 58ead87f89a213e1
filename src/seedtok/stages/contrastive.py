"""Stage I (section 2.2.1): the Causal Q-Former learns by image-text contrast on its final embedding.

With `causal` off it is the BLIP-2-style Q-Former (contrast on the best of its queries) that the causal one starts from.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from pydantic import SerializeAsAny, model_validator
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertTokenizer, CLIPModel

from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.core.files import load_strictly
from seedtok.core.hub import resolve
from seedtok.core.kinds import OURS, family_of
from seedtok.core.recalls import retrieval_recalls
from seedtok.core.text import clean_caption
from seedtok.data.batches import Batch
from seedtok.stages.auxiliary import AuxiliarySettings
from seedtok.stages.pixels import clip_normalize
from seedtok.tokenizer.causal_qformer import QFormerConfig
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder
from seedtok.tokenizer.vision import VisionTransformer
from seedtok.training.config import StageSettings
from seedtok.training.distributed import first_row, gather_with_gradient, rank_weight
from seedtok.training.losses import symmetric_cross_entropy
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage, freeze, full_precision


class ContrastiveSettings(StageSettings):
    # the frozen image encoder: "mini", a folder of one, or a CLIP's, whose ViT it is; None: that of `start`
    clip: NameOrFolder | None = None
    # the bidirectional Q-Former, a folder, to start from, whose sizes it keeps; None: from nothing
    start: NameOrFolder | None = None
    # from nothing: a folder of the BertTokenizer that captions are read by; else the start's
    text_tokenizer: Path | None = None
    causal: bool = True
    train_vision: bool = False  # the image encoder learns too, for pictures unlike those it was made for; paper: frozen
    width: int = 256
    layers: int = 4
    heads: int = 4
    queries: int = 32  # paper
    projection: int = 256  # paper
    positions: bool = False  # learned vectors added to the patch features; paper: none
    dropout: float = 0.0
    label_smoothing: float = 0.1  # paper's code
    temperature_bounds: tuple[float, float] | None = None  # that the learned temperature is held in; paper's code: none
    caption_weight: float = 0.0  # of BLIP-2's captioning loss; paper: the contrastive loss alone
    auxiliary: SerializeAsAny[AuxiliarySettings] | None = None  # a loss on all embeddings; paper: none

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "ContrastiveSettings":
        if self.temperature_bounds is not None and not 0 < self.temperature_bounds[0] < self.temperature_bounds[1]:
            raise ValueError(f"temperature_bounds {self.temperature_bounds}: expected 0 < lower < upper")
        return self

    def words(self) -> BertTokenizer:
        """The tokenizer of captions for a Q-Former from nothing; raises ConfigError where none is set."""
        if self.text_tokenizer is None:
            raise ConfigError("a new Q-Former needs a text tokenizer: set stage.text_tokenizer, or stage.start")
        return text_tokenizer(self.text_tokenizer)

    def build(self) -> "ContrastiveStage":
        return ContrastiveStage(self, _from_nothing(self) if self.start is None else _from_start(self, self.start))


def text_tokenizer(folder: Path) -> BertTokenizer:
    """The BertTokenizer of a folder; raises CheckpointError where there is none."""
    if not (folder / "tokenizer_config.json").is_file():
        raise CheckpointError(f"{folder} is not a text tokenizer: expected a folder with tokenizer_config.json")
    return BertTokenizer.from_pretrained(str(folder))


def _from_nothing(settings: ContrastiveSettings) -> ImageTextEmbedder:
    if settings.clip is None:
        raise ConfigError("a Q-Former from nothing needs an image encoder: set stage.clip, or stage.start")
    vision = image_encoder(settings.clip)
    words = settings.words()
    qformer = QFormerConfig(
        queries=settings.queries, width=settings.width, layers=settings.layers, heads=settings.heads,
        mlp_width=4 * settings.width, encoder_width=vision.config.width, vocab_size=len(words),
        max_text_positions=64, dropout=settings.dropout, causal=settings.causal,
    )  # fmt: skip
    config = EmbedderConfig(vision.config, qformer, settings.projection, positions=settings.positions)
    embedder = ImageTextEmbedder(config, words)
    embedder.qformer.copy_text_ffn_to_query()
    embedder.vision = vision
    return embedder


def _from_start(settings: ContrastiveSettings, start: str | Path) -> ImageTextEmbedder:
    """The start's weights under this run's mask, dropout and positions: new ones for one without, or none."""
    before = ImageTextEmbedder.from_pretrained(resolve(start, "embedder"))
    if before.config.qformer.vocab_size is None or before.config.projection is None:
        raise ConfigError(f"{start} has no text branch, which contrast with captions needs")
    if before.text_tokenizer is None:
        raise ConfigError(f"{start} has no text tokenizer: make it again with `seedtok convert --text-tokenizer`")
    qformer = replace(before.config.qformer, causal=settings.causal, dropout=settings.dropout)
    config = replace(before.config, qformer=qformer, positions=settings.positions)
    embedder = ImageTextEmbedder(config, before.text_tokenizer)
    state = before.state_dict()
    if embedder.patch_positions is None:
        state.pop("patch_positions", None)
    else:
        state.setdefault("patch_positions", embedder.patch_positions.detach())
    load_strictly(embedder, state, str(start))
    if settings.clip is not None:
        embedder.vision = image_encoder(settings.clip)
    return embedder


def image_encoder(clip: str | Path) -> VisionTransformer:
    """The image encoder of a folder, of its own or a CLIP's, or of "mini"; raises CheckpointError for anything else."""
    folder = resolve(clip, "vision")
    if family_of(folder)[0] == OURS:
        return VisionTransformer.from_pretrained(folder)
    try:
        return VisionTransformer.from_clip(CLIPModel.from_pretrained(folder, dtype=torch.float32).vision_model)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a CLIP: {str(error).splitlines()[0]}") from None


class ContrastiveStage(Stage):
    """Image-text contrastive loss over all ranks, with gradient; beside it captioning and auxiliary losses, if set.

    Contrast reaches the final embedding alone, captioning those of the layers before the last; an auxiliary loss can
    reach every embedding that a codebook will see.
    """

    def __init__(self, settings: ContrastiveSettings, embedder: ImageTextEmbedder) -> None:
        super().__init__()
        self.settings = settings
        self.embedder = embedder
        self.interpolation = embedder.config.vision.interpolation
        if not settings.train_vision:
            freeze(self.embedder.vision)
        self.log_temperature = nn.Parameter(embedder.temperature.float().log())
        self.auxiliary = None if settings.auxiliary is None else settings.auxiliary.build(embedder.config.qformer.width)

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if self.auxiliary is not None:
            self.auxiliary.check_batch(batch)

    @torch.no_grad()
    def initialize(self, batches: Iterable[Batch]) -> None:
        """From nothing, starts the features' LayerNorm with a bias that centres them.

        A mean that all patches of all images share goes into every query by cross-attention, and drowns the rest.
        """
        if self.settings.start is None:
            features = [self.embedder.patch_features(clip_normalize(b.pixels)).float() for b in islice(batches, 8)]
            self.embedder.ln_vision.bias.sub_(torch.cat(features).mean((0, 1)))

    def temperature(self) -> Tensor:
        """What cosines are divided by, a scalar with a gradient.

        Its logarithm is learned. The bounds, if any, hold the logarithm itself before it is used, so that at a bound
        its gradient is what it is without one.
        """
        if self.settings.temperature_bounds is not None:
            low, high = self.settings.temperature_bounds
            with torch.no_grad():
                self.log_temperature.clamp_(math.log(low), math.log(high))
        return self.log_temperature.exp()

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Image and text embeddings of unit length."""
        features = self.embedder.patch_features(clip_normalize(batch.pixels))
        return self.embedder.project_queries(self.embedder.qformer(features)), self._embed_texts(batch)

    def _embed_texts(self, batch: Batch) -> Tensor:
        return self.embedder.embed_texts([clean_caption(caption) for caption in batch.captions])

    def _caption(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
        """The queries, and the loss of saying the caption from them, word by word (BLIP-2's image-grounded text)."""
        tokenizer, qformer = self.embedder.text_tokenizer, self.embedder.qformer
        assert tokenizer is not None
        tokens = tokenizer(
            [clean_caption(caption) for caption in batch.captions], padding=True, truncation=True,
            max_length=self.embedder.config.max_text_tokens, return_tensors="pt",
        ).to(features.device)  # fmt: skip
        said = tokens.input_ids.clone()
        said[:, 0] = tokenizer.mask_token_id  # where BLIP-2 has [DEC]: the start of a caption, not of a text to embed
        queries, states = qformer.forward_joint(features, said, tokens.attention_mask, captioning=True)
        logits = states[:, :-1] @ qformer.word_embeddings.weight.T.to(states.dtype)
        target = said[:, 1:].masked_fill(tokens.attention_mask[:, 1:] == 0, -100)
        loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten())
        return queries, loss * rank_weight(tokens.attention_mask[:, 1:].sum())

    def forward(self, batch: Batch) -> Losses:
        features = self.embedder.patch_features(clip_normalize(batch.pixels))
        caption = features.new_zeros(())
        if self.settings.caption_weight:
            queries, caption = self._caption(batch, features)
        else:
            queries = self.embedder.qformer(features)
        auxiliary = features.new_zeros(()) if self.auxiliary is None else self.auxiliary(batch, queries)
        images, texts = self.embedder.project_queries(queries), self._embed_texts(batch)
        all_images, all_texts = gather_with_gradient(images), gather_with_gradient(texts)
        temperature = self.temperature()
        with full_precision(images):
            to_text = self.embedder.similarity(images, all_texts) / temperature
            to_image = self.embedder.similarity(all_images, texts).T / temperature
        loss = symmetric_cross_entropy(to_text, to_image, first_row(images), self.settings.label_smoothing)
        right = to_text.argmax(1) == torch.arange(len(images), device=loss.device) + first_row(images)
        numbers = {"contrast": loss, "accuracy": right.float().mean(), "temperature": temperature}
        if self.settings.caption_weight:
            numbers["caption"] = caption
        total = loss + self.settings.caption_weight * caption
        if self.auxiliary is not None and self.settings.auxiliary is not None:
            numbers[self.auxiliary.name] = auxiliary
            total = total + self.settings.auxiliary.weight * auxiliary
        return {"loss": total, **numbers}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        pairs = [self.embed(batch) for batch in batches]
        images, texts = (gather_with_gradient(torch.cat([pair[i] for pair in pairs])) for i in (0, 1))
        with full_precision(images):
            return retrieval_recalls(self.embedder.similarity(images, texts))

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        self.embedder.temperature.copy_(self.temperature())
        self.embedder.save_pretrained(folder)
