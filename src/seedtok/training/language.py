"""A mini OPT, pretrained on text alone: what the paper takes off the shelf as OPT-2.7B."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM

from seedtok.data.batches import Batch
from seedtok.data.questions import questions
from seedtok.data.scenes import PHRASINGS, Scene, caption
from seedtok.mllm.prompts import question_prompt
from seedtok.mllm.sequences import end_of, next_learnt, pack, packed, pad_of
from seedtok.training.config import StageSettings
from seedtok.training.stage import Losses, Stage
from seedtok.training.text import lm_tokenizer


class LanguageSettings(StageSettings):
    width: int = 256
    layers: int = 6
    heads: int = 4
    positions: int = 512
    row: int = 192  # tokens of a packed row
    worded: int = 2  # captions of a scene, at most, in one text: what teaches to look back
    asked: int = 6  # questions that may follow
    whole: float = 1.0  # share of texts learnt word by word; of the others, only what follows from what was said before

    def build(self) -> "LanguageStage":
        return LanguageStage(self)


class LanguageStage(Stage):
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
                bos_token_id=end_of(self.tokenizer), eos_token_id=end_of(self.tokenizer),
                pad_token_id=pad_of(self.tokenizer),
            )
        )  # fmt: skip

    def text(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, bool]]:
        """A scene told once or more, and now and then questions about it with their answers: parts, and which to learn.

        What is drawn by chance, the first telling and what is asked, can only be learnt as a distribution.
        """
        whole = bool(rng.random() < self.settings.whole)
        phrasings = rng.permutation(PHRASINGS)[: int(rng.integers(1, self.settings.worded + 1))]
        first, *more = (caption(scene, int(p)) for p in phrasings)
        parts = [(first, whole), *((f" {again}", True) for again in more)]
        for q in questions(scene, rng, int(rng.integers(self.settings.asked + 1))):
            parts += [(f" {question_prompt(q.text)}", whole), (f" {q.answer}", True)]
        return parts if len(parts) > 1 else [(first, True)]

    def rows(self, texts: list[list[tuple[str, bool]]]) -> tuple[Tensor, Tensor, Tensor]:
        end = end_of(self.tokenizer)
        every: list[tuple[list[int], list[bool]]] = []
        for parts in texts:
            ids, learnt = [end], [False]
            for text, wanted in parts:
                part = cast(list[int], self.tokenizer(text, add_special_tokens=False).input_ids)
                ids, learnt = ids + part, learnt + [wanted] * len(part)
            every.append(([*ids, end], [*learnt, True]))
        return pack(every, self.settings.row, pad_of(self.tokenizer))

    def forward(self, batch: Batch) -> Losses:
        device = batch.pixels.device
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        texts = [[(text, True)] for text in batch.captions]
        if batch.scenes is not None:
            texts = [self.text(scene, rng) for scene in batch.scenes]
        ids, learnt, segments = (x.to(device) for x in self.rows(texts))
        mask, positions = packed(segments)
        states = self.lm.model(input_ids=ids, attention_mask=mask, position_ids=positions)
        chosen = next_learnt(learnt, segments)
        logits = self.lm.lm_head(states.last_hidden_state[:, :-1][chosen]).float()
        loss = F.cross_entropy(logits, ids[:, 1:][chosen])
        return {"loss": loss, "padding": (segments == 0).float().mean()}

    def export(self, folder: Path) -> None:
        self.lm.save_pretrained(folder)
        self.tokenizer.save_pretrained(str(folder))
