"""A language model learns to read images as vectors: BLIP-2's second stage, and the pilot of section 2.1."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from seedtok.baselines.image_vectors import QFormerVectors, load_codes
from seedtok.baselines.prefix_lm import PROJECTION_FILE, PrefixLM
from seedtok.core.hub import resolve
from seedtok.data.batches import Batch
from seedtok.lm.adapter import LoraSettings, has_lora
from seedtok.lm.prompts import CAPTION, CAPTIONING
from seedtok.stages.pixels import clip_normalize
from seedtok.training.config import StageSettings
from seedtok.training.distributed import per_rank, rank_and_world
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage, freeze, mean_losses


class ReadingSettings(StageSettings):
    """What is read is either the embeddings of `qformer` or the codes of `tokens`."""

    base: NameOrFolder  # a causal LM: "mini" (the shipped OPT), a folder, or a hub id
    qformer: NameOrFolder | None = None  # the folder of an ImageTextEmbedder
    train_qformer: bool = True  # beside the FC layer, as BLIP-2 does
    qformer_share: float = Field(default=1.0, gt=0, le=1)  # of the learning rate, at which the Q-Former goes on
    tokens: NameOrFolder | None = None  # an image tokenizer, SEED's ("mini"), a VQ-VAE's or BEiT v2's
    rank: int | None = Field(default=None, ge=1)  # of LoRA in the LM; None: it stays as it is, as BLIP-2's
    alpha: int = 32  # of LoRA, as the next
    dropout: float = 0.05

    @model_validator(mode="after")
    def _reads_one_of_two(self) -> "ReadingSettings":
        if (self.qformer is None) == (self.tokens is None):
            raise ValueError("expected either stage.qformer or stage.tokens, and the other none")
        return self

    def build(self) -> "ReadingStage":
        lora = None if self.rank is None else LoraSettings(self.rank, self.alpha, self.dropout)
        if self.tokens is not None:
            codes = load_codes(self.tokens)
            codes.standardize(codes.table().detach())
            return ReadingStage(PrefixLM.build(self.base, freeze(codes), lora))
        assert self.qformer is not None
        qformer = resolve(self.qformer, "embedder")
        model = PrefixLM.on_qformer(self.base, qformer, lora)
        if self.train_qformer:
            _freeze_but_queries(model.images)
        else:
            freeze(model.images.get_submodule("embedder"))
        return ReadingStage(model, not (qformer / PROJECTION_FILE).is_file(), self.qformer_share)


def _freeze_but_queries(images: nn.Module) -> None:
    """Freezes the ViT of a Q-Former, and what only stage I needs: the text branch and the projections."""
    freeze(images.get_submodule("embedder.vision"))
    for name, parameter in images.named_parameters():
        if "text" in name or "word_embeddings" in name or "position_embeddings" in name or "projection" in name:
            parameter.requires_grad_(False)


class ReadingStage(Stage):
    """Learns to caption: the LM predicts the caption after the vectors of the image and "A photo of".

    With `standardizes`, an FC layer that starts from nothing reads vectors with zero mean and unit variance: that of
    all codes, or that of a Q-Former's embeddings before training.
    """

    def __init__(self, model: PrefixLM, standardizes: bool = True, qformer_share: float = 1.0) -> None:
        super().__init__()
        self.model, self.standardizes, self.qformer_share = model, standardizes, qformer_share
        self.interpolation = model.images.square.interpolation
        if not has_lora(model.network):
            freeze(model.network)

    def cast_frozen(self, dtype: torch.dtype) -> None:
        super().cast_frozen(dtype)
        for parameter in self.model.network.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)

    @torch.no_grad()
    def initialize(self, batches: Iterable[Batch]) -> None:
        images = self.model.images
        if self.standardizes and isinstance(images, QFormerVectors):
            kind = next(images.embedder.vision.parameters()).dtype  # that of what is frozen
            with torch.autocast(images.mean.device.type, dtype=kind, enabled=kind != torch.float32):
                vectors = [images.vectors(clip_normalize(batch.pixels)) for batch in islice(batches, 8)]
            images.standardize(torch.cat(vectors).flatten(0, 1))

    def shares_of_rate(self) -> dict[str, float]:
        return {"model.images.": self.qformer_share}

    def forward(self, batch: Batch) -> Losses:
        ids, learnt = self.model.rows([CAPTION] * len(batch.captions), batch.captions)
        device = batch.pixels.device
        loss = self.model.loss(clip_normalize(batch.pixels), ids.to(device), learnt.to(device))
        return {"loss": loss, "count": learnt.sum()}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The loss, and the share of greedy captions that are right."""
        batches, world = list(batches), rank_and_world()[1]
        right: list[Losses] = []
        for batch in batches:
            pixels = clip_normalize(batch.pixels[: per_rank(16)])
            # ranks that hold parts of one model take as many steps as one another
            greedy = replace(CAPTIONING, num_beams=1, generate_options={"synced_gpus": world > 1})
            said = self.model.complete(pixels, [CAPTION] * len(pixels), greedy)
            right.append({"right": torch.tensor(batch.right_captions(said)).float().mean()})
        return super().validate(batches) | mean_losses(right)

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Also of a run that began before embeddings were standardised, and prompts had a start id: it goes on so."""
        images = self.model.images
        plain = {
            "model.images.mean": torch.zeros_like(images.mean),
            "model.images.scale": torch.ones_like(images.scale),
        }
        missing = {name: plain[name] for name in plain.keys() & self.own_state().keys() - state.keys()}
        self.model.starts = self.model.starts and not missing
        super().load_own_state(state | missing)

    def own_state(self) -> dict[str, Tensor]:
        """Without the frozen LM."""
        trained = {f"model.{name}" for name, _ in self.model.trainable()}
        return {k: v for k, v in super().own_state().items() if not k.startswith("model.network.") or k in trained}

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
