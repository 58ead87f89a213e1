"""BLIP-2's second stage, for the baseline of Table 3: a Q-Former learns to produce inputs that a frozen LM can use."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from seedtok.baselines.blip2 import Blip2LM
from seedtok.core.hub import resolve
from seedtok.data.batches import Batch
from seedtok.lm.prompts import CAPTION, CAPTIONING
from seedtok.stages.pixels import clip_normalize
from seedtok.training.config import StageSettings
from seedtok.training.distributed import per_rank, rank_and_world
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage, freeze, mean_losses


class Blip2Settings(StageSettings):
    base: NameOrFolder  # a causal LM: "mini" (the shipped OPT), a folder, or a hub id
    qformer: NameOrFolder  # a bidirectional ImageTextEmbedder: "mini" or a folder

    def build(self) -> "Blip2Stage":
        return Blip2Stage(self)


class Blip2Stage(Stage):
    """Learns to caption: a frozen LM predicts the caption after "A photo of" from the Q-Former's embeddings."""

    def __init__(self, settings: Blip2Settings) -> None:
        super().__init__()
        self.model = Blip2LM.build(settings.base, resolve(settings.qformer, "bidirectional"))
        freeze(self.model.lm)
        freeze(self.model.embedder.vision)
        for name, parameter in self.model.embedder.named_parameters():  # what only stage 1 needs
            if "text" in name or "word_embeddings" in name or "position_embeddings" in name or "projection" in name:
                parameter.requires_grad_(False)

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

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
