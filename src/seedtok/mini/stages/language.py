"""A mini OPT, pretrained on text alone: what the paper takes off the shelf as OPT-2.7B."""

from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.data.batches import Batch
from seedtok.lm.base import end_id, pad_id
from seedtok.lm.packing import Packed, block_causal_mask, pack
from seedtok.lm.prompts import question_prompt
from seedtok.mini.mimetic import start_by_copying
from seedtok.mini.text import lm_tokenizer
from seedtok.mini.world.questions import Question, questions
from seedtok.mini.world.scenes import CLASSIC, VARIED, Scene, caption, sample_scene, wordings
from seedtok.mini.world.source import scenes_of
from seedtok.stages.packed import PackedStage
from seedtok.training.config import StageSettings
from seedtok.training.stage import Losses


class LanguageSettings(StageSettings):
    width: int = 256
    layers: int = 6
    heads: int = 4
    positions: int = 512
    row: int = 256  # tokens of a packed row
    worded: int = 2  # captions of a scene, at most, in one text: what teaches to look back
    asked: int = 6  # questions that may follow
    looking: int = 2  # layers, the first ones, whose heads start by looking back a word, two, three
    together: int = 4  # scenes, at most, in one text
    listed: float = 0.5  # share of texts that also list what is where
    whole: float = 1.0  # share of texts learnt word by word; of the others, only what follows from what was said before

    def build(self) -> "LanguageStage":
        return LanguageStage(self)


def inventory(scene: Scene, rng: np.random.Generator) -> str:
    """What is where, as a list: each noun stands beside its place, which captions seldom have it do."""
    things = [f"{t.place}: {t.concept}" for t in rng.permutation(np.array(scene.things, dtype=object))]
    return ", ".join([*things, f"background: {scene.background}"]) + "."


def _tellings(scene: Scene, rng: np.random.Generator, count: int, listed: float) -> list[str]:
    """A scene in `count` wordings, and perhaps as a list."""
    told = [caption(scene, int(p)) for p in rng.permutation(wordings(scene))[:count]]
    if rng.random() < listed:
        told.insert(int(rng.integers(len(told) + 1)), inventory(scene, rng))
    return told


def _asked(scenes: list[Scene], rng: np.random.Generator, count: int) -> list[Question]:
    """Questions about a scene; about one of several, such as say which they mean."""
    if len(scenes) == 1:
        return questions(scenes[0], rng, count)
    things = Counter(t.concept for scene in scenes for t in scene.things)
    asked = [q for scene in scenes for q in questions(scene, rng, 20) if q.kind in ("where", "relation")]
    clear = [q for q in asked if all(n == 1 or name not in q.text.rstrip("?").split() for name, n in things.items())]
    return [clear[i] for i in rng.permutation(len(clear))[:count]]


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

    def text(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, bool]]:
        """Some scenes, each told once or more, and questions about them with their answers: parts, and which to learn.

        Where the scenes are several, to name all that was said is a poor guess at what is said next: what teaches to
        tell which thing goes where. What is drawn by chance, the first telling and what is asked, can only be learnt as
        a distribution.
        """
        s = self.settings
        whole = bool(rng.random() < s.whole)
        world = CLASSIC if scene.look is None else VARIED
        scenes = [scene, *(sample_scene(rng, "train", world) for _ in range(int(rng.integers(s.together))))]
        tellings = [_tellings(each, rng, int(rng.integers(1, s.worded + 1)), s.listed) for each in scenes]
        parts = [(f" {first}", whole) for first, *_ in tellings]
        again = [telling for _, *more in tellings for telling in more]
        parts += [(f" {again[i]}", True) for i in rng.permutation(len(again))]
        for q in _asked(scenes, rng, int(rng.integers(s.asked + 1))):
            parts += [(f" {question_prompt(q.text)}", whole), (f" {q.answer}", True)]
        return (
            [(parts[0][0].lstrip(), whole), *parts[1:]] if any(learnt for _, learnt in parts) else self.text(scene, rng)
        )

    def rows(self, texts: list[list[tuple[str, bool]]]) -> Packed:
        end = end_id(self.tokenizer)
        every: list[tuple[list[int], list[bool]]] = []
        for parts in texts:
            ids, learnt = [end], [False]
            for text, wanted in parts:
                part = cast(list[int], self.tokenizer(text, add_special_tokens=False).input_ids)
                ids, learnt = ids + part, learnt + [wanted] * len(part)
            every.append(([*ids, end], [*learnt, True]))
        return pack(every, self.settings.row, pad_id(self.tokenizer))

    def check_batch(self, batch: Batch) -> None:
        """Captions are enough, and every batch has them."""

    def packed(self, batch: Batch) -> Packed:
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        scenes = scenes_of(batch)
        if scenes is None:
            return self.rows([[(text, True)] for text in batch.captions])
        return self.rows([self.text(scene, rng) for scene in scenes])

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
