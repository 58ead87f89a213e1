"""Stages IIIa and IIIb (section 3.1): a frozen LM with LoRA learns to read and write codes by next-token prediction."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from seedtok.core.errors import ConfigError, DataError
from seedtok.data.batches import Batch
from seedtok.lm.adapter import LoraSettings
from seedtok.lm.base import end_id
from seedtok.lm.packing import Packed, Sample, beginning, pack
from seedtok.lm.prompts import CAPTION, TextSettings, drawing_prompt, question_prompt
from seedtok.lm.seed_lm import SeedLM
from seedtok.lm.texts import complete
from seedtok.stages.packed import PackedStage
from seedtok.stages.pixels import clip_normalize
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.training.config import StageSettings
from seedtok.training.distributed import per_rank, rank_and_world
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, freeze, mean_losses


class AutoregressionSettings(StageSettings):
    base: NameOrFolder  # a causal LM: "mini" (the shipped OPT), a folder, or a hub id
    tokenizer: NameOrFolder  # a SeedTokenizer: "mini", a folder, or a hub id
    start: Path | None = None  # a SeedLM to go on from: stage IIIb on IIIa's result
    drawing: float = 0.0  # share of samples whose codes are learnt from their caption; paper: 0 in IIIa, both in IIIb
    asking: float = 0.0  # share of samples that are questions and their answers; paper: 0
    questions: int = Field(default=1, ge=1)  # the most about an image in one sample, each with those before it in sight
    replay: float = 0.0  # share of samples that are text alone, so that the LM keeps its language; paper: 0
    code_weight: float = 1.0  # of a code in the loss, a word's being 1: a drawing has three times a caption's tokens
    neighbour_head: bool = False  # while training, also score codes by their codebook vectors; paper: no
    shuffle_codes: int | None = Field(default=None, ge=0)  # seed of a fixed order of the codes; paper: causal
    row: int = 256  # tokens of a packed row
    rank: int = 16  # LoRA; the successor's, as the next two
    alpha: int = 32
    dropout: float = 0.05

    def build(self) -> "AutoregressionStage":
        seed = SeedTokenizer.from_pretrained(self.tokenizer)
        if self.shuffle_codes is not None:
            shuffle_codes(seed, self.shuffle_codes)
        if self.start is None:
            lora = LoraSettings(self.rank, self.alpha, self.dropout)
            model = SeedLM.build(self.base, seed, lora)
        else:
            model = SeedLM.from_pretrained(self.start, base=self.base, seed=seed, trainable=True)
            lora = getattr(model.joint.network, "peft_config", {}).get("default")
            if model.joint.adapter is None or lora is None:
                raise ConfigError(
                    f"{self.start} has no LoRA and visual layers of its own: start from the result of a run"
                )
            self.check_kept({"rank": lora.r, "alpha": lora.lora_alpha, "dropout": lora.lora_dropout}, self.start)
        return AutoregressionStage(self, model)


def shuffle_codes(tokenizer: SeedTokenizer, seed: int) -> None:
    """Has a tokenizer give out its codes in one fixed order, drawn by `seed`; it is then saved with its language model.

    In a comparison this shows what causal order is worth: the codes, and what they hold, stay the same.
    """
    queries = tokenizer.config.embedder.qformer.queries
    order = torch.randperm(queries, generator=torch.Generator().manual_seed(seed))
    tokenizer.config = replace(tokenizer.config, code_order=tuple(order.tolist()))
    tokenizer.source = None  # it is no longer the one of that name


class AutoregressionStage(PackedStage):
    """Next-token prediction on packed rows: captions and answers after images, and codes after captions."""

    def __init__(self, settings: AutoregressionSettings, model: SeedLM) -> None:
        super().__init__()
        self.settings = settings
        if settings.neighbour_head:
            assert model.joint.adapter is not None
            model.joint.adapter.add_neighbour_head()
        self.model = model
        self.seed = freeze(model.seed)
        self.interpolation = model.seed.config.embedder.vision.interpolation

    def cast_frozen(self, dtype: torch.dtype) -> None:
        super().cast_frozen(dtype)  # the tokenizer's codebook stays in float32: stored codes are of these very vectors
        for parameter in self.model.joint.network.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)

    def check_batch(self, batch: Batch) -> None:
        if batch.codes is None:
            return
        if batch.codes_of != self.seed.codebook_id:
            raise DataError("the stored codes are of another tokenizer than stage.tokenizer: tokenise the shards again")
        if batch.encoder not in ("", self.seed.encoder_fingerprint):
            raise DataError(
                "the stored codes are of another encoder than that of stage.tokenizer, with the same codebook: "
                "tokenise the shards again"
            )

    def sequence(self, codes: Tensor, caption: str, asked: Sequence[tuple[str, str]], draws: bool) -> Sample:
        """One sample as ids, and which of them are learnt: a drawing, else answers, or without any the caption."""
        model = self.model.joint
        first, picture, end = model.start_ids, model.image_ids(codes), end_id(model.text_tokenizer)
        if draws:
            prompt = [*first, *model.text_ids(drawing_prompt(caption))]
            # begin-of-image is learnt as well, so that the model draws unasked after such a prompt; end-of-image is
            # given, and that nothing follows it is learnt
            ids = [*prompt, *picture, end]
            return ids, [False] * len(prompt) + [True] * (len(picture) - 1) + [False, True]
        turns = [(question_prompt(question), answer) for question, answer in asked] or [(CAPTION, caption)]
        parts = [part for prompt, said in turns for part in ((f" {prompt}", False), (f" {said}", True))]
        ids, learnt = self._joined([(turns[0][0], False), *parts[1:]])  # no space follows an image
        return [*first, *picture, *ids], [False] * len(first + picture) + learnt

    def text_sequence(self, parts: list[tuple[str, bool]]) -> Sample:
        """A text without an image, as ids, and which of them are learnt."""
        first = self.model.joint.start_ids
        ids, learnt = self._joined(parts)
        return [*first, *ids], [False] * len(first) + learnt

    def _joined(self, parts: list[tuple[str, bool]]) -> Sample:
        """Parts of a text and its end, which is learnt."""
        model = self.model.joint
        ids, learnt = list[int](), list[bool]()
        for text, wanted in parts:
            part = model.text_ids(text)
            ids, learnt = [*ids, *part], learnt + [wanted] * len(part)
        return [*ids, end_id(model.text_tokenizer)], [*learnt, True]

    @torch.no_grad()
    def codes(self, batch: Batch) -> Tensor:
        """The pictures' codes, as they were stored or else computed."""
        return batch.codes if batch.codes is not None else self.seed.encode_pixels(clip_normalize(batch.pixels))

    def packed(self, batch: Batch) -> Packed:
        """Pictures, by their codes, as what is learnt of each by chance: caption, answer, drawing or a text alone."""
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        return self._pack([self._chosen(batch, i, codes, rng) for i, codes in enumerate(self.codes(batch))])

    def _chosen(self, batch: Batch, index: int, codes: Tensor, rng: np.random.Generator) -> Sample:
        s, kind = self.settings, rng.random()
        asks = s.drawing <= kind < s.drawing + s.asking
        if s.drawing + s.asking <= kind < s.drawing + s.asking + s.replay:
            return beginning(self.text_sequence(batch.replayed(index, rng)), s.row)
        asked = batch.questions(index, rng, int(rng.integers(1, s.questions + 1))) if asks else []
        return self.sequence(codes, batch.captions[index], asked, draws=kind < s.drawing)

    def _pack(self, rows: list[Sample]) -> Packed:
        return pack(rows, self.settings.row, self.model.joint.pad_id)

    def losses(self, rows: Packed) -> Losses:
        rows = rows.to(self.model.device)
        weights = 1 + (self.settings.code_weight - 1) * self.model.vocabulary.is_visual(rows.targets).float()
        return {"loss": self.model.joint.loss(rows, weights), "count": weights.sum(), "padding": rows.padding}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The loss of each task alone, and the share of greedy captions that are right."""
        tasks: dict[str, list[Losses]] = {"caption": [], "drawing": []}
        right: list[Losses] = []
        for batch in batches:
            codes = self.codes(batch)
            for name, draws in (("caption", False), ("drawing", True)):
                every = [self.sequence(c, t, (), draws) for c, t in zip(codes, batch.captions, strict=True)]
                rows = self._pack(every).to(self.model.device)
                tasks[name].append({"loss": self.model.joint.loss(rows), "count": torch.tensor(len(rows.targets))})
            prompts = [self.model.joint.sequence([c, CAPTION]) for c in codes[: per_rank(16)]]
            # ranks that hold parts of one model take as many steps as one another
            together = {"synced_gpus": True} if rank_and_world()[1] > 1 else {}
            said = complete(self.model.joint, prompts, TextSettings(generate_options=together))
            right.append({"right": torch.tensor(batch.right_captions(said)).float().mean()})
        return {name: mean_losses(every)["loss"] for name, every in tasks.items()} | mean_losses(right)

    def own_state(self) -> dict[str, Tensor]:
        """Without the frozen LM."""
        kept = {f"model.joint.{name}" for name, _ in self.model.joint.trainable()}
        return {k: v for k, v in super().own_state().items() if k in kept}

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
