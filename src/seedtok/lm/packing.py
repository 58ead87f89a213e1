"""Sequences of texts and pictures as ids: built, padded, packed; and how the next id is picked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seedtok.core.errors import InputError
from seedtok.core.records import encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seedtok.lm.seed_lm import SeedLM


def text_ids(model: SeedLM, text: str) -> list[int]:
    return cast(list[int], model.text_tokenizer(encodable(text), add_special_tokens=False).input_ids)


def text_of(model: SeedLM, ids: list[int]) -> str:
    return cast(str, model.text_tokenizer.decode(ids, skip_special_tokens=True))


def end_of(tokenizer: PreTrainedTokenizerBase) -> int:
    return cast(int, tokenizer.eos_token_id)


def pad_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills a row: any id would do, since it is masked; the end, where the LM has none for it."""
    return cast(int, tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def start(model: SeedLM) -> list[int]:
    """The token every sequence starts with, where the LM has one."""
    first = model.text_tokenizer.bos_token_id
    return [] if first is None else [cast(int, first)]


def sequence(model: SeedLM, segments: Sequence[str | Tensor]) -> list[int]:
    """Texts and codes (32,) in order -> ids, the start token first.

    Raises InputError when it is longer than the LM's context.
    """
    ids = start(model)
    for segment in segments:
        ids += text_ids(model, segment) if isinstance(segment, str) else model.vocabulary.span(segment.cpu()).tolist()
    check_length(model, len(ids))
    return ids


def check_length(model: SeedLM, length: int, more: int = 0) -> None:
    if length + more > model.context:
        room = f" and {more} to come" if more else ""
        raise InputError(f"a prompt of {length} tokens{room}; this model takes {model.context}: shorten it")


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Rows of ids and their mask, ends aligned."""
    flipped = [torch.tensor(list(row)[::-1], dtype=torch.long) for row in rows]
    ids = pad_sequence(flipped, batch_first=True).flip(1)
    mask = pad_sequence([torch.ones_like(row) for row in flipped], batch_first=True).flip(1)
    return ids.to(device), mask.to(device)


class Packed(NamedTuple):
    """Rows that hold several sequences each.

    `segments` numbers the sequences of a row from 1, 0 is padding; `predicted` has the rows and the columns of `ids`
    that are learnt: never the first of a sequence.
    """

    ids: Int[Tensor, "b t"]
    segments: Int[Tensor, "b t"]
    predicted: Int[Tensor, "2 n"]

    def to(self, device: torch.device) -> Packed:
        return Packed(*(tensor.to(device) for tensor in self))

    @property
    def targets(self) -> Int[Tensor, " n"]:
        return self.ids[self.predicted[0], self.predicted[1]]

    def before(self, states: Float[Tensor, "b t h"]) -> Float[Tensor, "n h"]:
        """Of the states at all places, those that predict."""
        return states[self.predicted[0], self.predicted[1] - 1]

    @property
    def padding(self) -> Float[Tensor, ""]:
        """The share of places that hold nothing."""
        return (self.segments == 0).float().mean()


def pack(sequences: Sequence[tuple[list[int], list[bool]]], length: int, pad: int = 0) -> Packed:
    """Sequences of ids, and of which of them to learn, into rows of at most `length`.

    As few rows as may be, filled evenly and then cut to the fullest. What is longer than a row is cut.
    """
    cut = sorted(((ids[:length], learnt[:length]) for ids, learnt in sequences), key=lambda pair: -len(pair[0]))
    count = max(1, -(-sum(len(ids) for ids, _ in cut) // length))
    while max(map(_length, rows := _spread(cut, count))) > length:
        count += 1
    learnt = _rows([[x and i > 0 for _, wanted in row for i, x in enumerate(wanted)] for row in rows], 0).bool()
    return Packed(
        _rows([[i for ids, _ in row for i in ids] for row in rows], pad),
        _rows([[number for number, (ids, _) in enumerate(row, 1) for _ in ids] for row in rows], 0),
        learnt.nonzero().T.contiguous(),
    )


_Row = list[tuple[list[int], list[bool]]]


def _length(row: _Row) -> int:
    return sum(len(ids) for ids, _ in row)


def _spread(sequences: _Row, count: int) -> list[_Row]:
    """Each of the sequences, longest first, into the emptiest of `count` rows."""
    rows: list[_Row] = [[] for _ in range(count)]
    for sequence in sequences:
        min(rows, key=_length).append(sequence)
    return rows


def _rows(values: list[list[int]], fill: int) -> Int[Tensor, "b t"]:
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in values], batch_first=True, padding_value=fill)


def packed(segments: Int[Tensor, "b t"]) -> tuple[Bool[Tensor, "b 1 t t"], Int[Tensor, "b t"]]:
    """Attention mask and positions of rows that hold several sequences: each sees only itself, up to itself.

    Padding, segment 0, sees padding, so that no row of the mask is empty.
    """
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    index = torch.arange(length, device=segments.device).expand_as(segments)
    start = torch.where(first, index, 0).cummax(dim=1).values
    return (same & causal)[:, None], index - start


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked: the likeliest at temperature 0, else drawn from the `top_p` of the mass."""

    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise InputError(f"temperature {self.temperature}, top_p {self.top_p}: expected at least 0, and 0 to 1")

    def pick(self, logits: Float[Tensor, "b n"]) -> Int[Tensor, " b"]:
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.float() / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            ordered[ordered.cumsum(-1) - ordered >= self.top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        if self.generator is not None:  # where it is, the probabilities must be
            probabilities = probabilities.to(self.generator.device)
        return torch.multinomial(probabilities, 1, generator=self.generator)[:, 0].to(logits.device)


GREEDY = Sampling()
