"""A mini OPT, pretrained on text alone: what the paper takes off the shelf as OPT-2.7B."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.data.batches import Batch
from seedtok.lm.base import end_id, pad_id
from seedtok.lm.packing import Packed, beginning, block_causal_mask, pack
from seedtok.mini.mimetic import start_by_copying
from seedtok.mini.text import lm_tokenizer
from seedtok.mini.world.source import scenes_of
from seedtok.mini.world.telling import Telling, telling
from seedtok.stages.packed import PackedStage
from seedtok.training.config import StageSettings
from seedtok.training.stage import Losses


class LanguageSettings(StageSettings):
    width: int = 256
    layers: int = 6
    heads: int = 4
    positions: int = 512
    row: int = 256  # tokens of a packed row
    looking: int = 2  # layers, the first ones, whose heads start by looking back a word, two, three
    telling: Telling = Telling()

    def build(self) -> "LanguageStage":
        return LanguageStage(self)


class LanguageStage(PackedStage):
    """Next-token prediction of captions, and of questions and answers that follow them."""

    def __init__(self, settings: LanguageSettings) -> None:
        super().__init__()
        self.settings = settings
        self.tokenizer = lm_tokenizer(settings.positions)
        self.lm = OPTForCausalLM(
            OPTConfig(
                vocab_size=len(self.tokenizer), hidden_size=settings.width, word_embed_proj_dim=settings.width,
                ffn_dim=4 * settings.width, num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
                max_position_embeddings=settings.positions, dropout=0.0, init_std=0.02 * 768 / settings.width,
                bos_token_id=end_id(self.tokenizer), eos_token_id=end_id(self.tokenizer),
                pad_token_id=pad_id(self.tokenizer),
            )
        )  # fmt: skip
        start_by_copying(self.lm, settings.looking)

    def rows(self, texts: list[list[tuple[str, bool]]]) -> Packed:
        end = end_id(self.tokenizer)
        every: list[tuple[list[int], list[bool]]] = []
        for parts in texts:
            ids, learnt = [end], [False]
            for text, wanted in parts:
                part = cast(list[int], self.tokenizer(text, add_special_tokens=False).input_ids)
                ids, learnt = ids + part, learnt + [wanted] * len(part)
            every.append(beginning(([*ids, end], [*learnt, True]), self.settings.row))
        return pack(every, self.settings.row, pad_id(self.tokenizer))

    def check_batch(self, batch: Batch) -> None:
        """Captions are enough, and every batch has them."""

    def packed(self, batch: Batch) -> Packed:
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        scenes = scenes_of(batch)
        if scenes is None:
            return self.rows([[(text, True)] for text in batch.captions])
        return self.rows([telling(scene, rng, self.settings.telling) for scene in scenes])

    def losses(self, rows: Packed) -> Losses:
        rows = rows.to(self.lm.device)
        mask, positions = block_causal_mask(rows.segments)
        states = self.lm.model(input_ids=rows.ids, attention_mask=mask, position_ids=positions).last_hidden_state
        loss = F.cross_entropy(self.lm.lm_head(rows.predicting(states)).float(), rows.targets)
        return {"loss": loss, "count": torch.tensor(len(rows.targets)), "padding": rows.padding}

    def export(self, folder: Path) -> None:
        with checkpoint_folder(folder) as new:
            self.lm.save_pretrained(new)
            self.tokenizer.save_pretrained(str(new))
