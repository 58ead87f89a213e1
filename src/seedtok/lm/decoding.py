"""Decoding images: the 32 codes that follow begin-of-image.

An image span is valid by construction: within it only codes are scored, as many are decoded as an image has, and its
end is appended, not predicted. Codes are decoded one at a time, several at a time (greedily), or by beam search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seedtok.core.device import computes_bfloat16_fast
from seedtok.core.errors import InputError
from seedtok.lm.model import JointLM
from seedtok.lm.packing import left_pad
from seedtok.lm.probe import supports_cache
from seedtok.lm.sequences import CachedSequences

DRAFT = 16  # codes that one forward of Jacobi decoding checks, of one image
BATCH_DRAFT = 4  # and of each of several
COLDEST = 1e-6  # temperature below which the most likely token is chosen: logits divided by less are no numbers


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the most likely one at temperature 0, else sampled.

    `top_p` restricts sampling to the most likely tokens that have this much of the probability (nucleus sampling).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise InputError(f"temperature {self.temperature}, top_p {self.top_p}: expected at least 0, and 0 to 1")

    def next_tokens(self, logits: Float[Tensor, "b n"]) -> Int[Tensor, " b"]:
        """One token a row."""
        if self.temperature < COLDEST:
            return logits.argmax(-1)
        probabilities = (logits.float() / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            before = ordered.cumsum(-1) - ordered
            ordered[..., 1:][before[..., 1:] >= self.top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        if self.generator is not None:  # probabilities have to be on its device
            probabilities = probabilities.to(self.generator.device)
        return torch.multinomial(probabilities, 1, generator=self.generator)[:, 0].to(logits.device)


GREEDY = Sampling()


@torch.no_grad()
def draw_codes(
    model: JointLM, prompts: Sequence[Sequence[int]], sampling: Sampling = GREEDY, num_beams: int = 1
) -> Int[Tensor, "b n"]:
    """Codes (B, 32) of the images that follow prompts of ids.

    Raises InputError for a prompt too long for the LM, or for beams together with sampling.
    """
    if num_beams < 1:
        raise InputError(f"{num_beams} beams: give 1 or more")
    if num_beams > 1 and sampling.temperature:
        raise InputError("beams and a temperature exclude each other; drop one")
    if not prompts:
        return torch.zeros(0, model.vocabulary.span, dtype=torch.int64, device=model.device)
    rows = [[*prompt, model.vocabulary.begin] for prompt in prompts]
    for row in rows:
        model.check_length(len(row), model.vocabulary.span)
    sequences = CachedSequences(model, rows, supports_cache(model))
    return decode_image(sequences, sampling) if num_beams == 1 else search_image(sequences, num_beams)


@torch.no_grad()
def image_log_probs(
    model: JointLM, prompts: Sequence[Sequence[int]], codes: Int[Tensor, "b n"], batch_size: int = 32
) -> Float[Tensor, " b"]:
    """The log-probability of images, by their codes (B, 32), each after a prompt of ids that asks for one.

    Within an image only codes are possible, as in `draw_codes`. Raises InputError for a prompt too long for the LM.
    """
    vocabulary, span, found = model.vocabulary, codes.shape[1], []
    for prompt in prompts:
        model.check_length(len(prompt) + 1, span)
    for start in range(0, len(prompts), batch_size):
        images = codes[start : start + batch_size]
        given = vocabulary.code_ids(images[:, :-1]).tolist()
        own = prompts[start : start + batch_size]
        ids, mask = left_pad([[*p, vocabulary.begin, *c] for p, c in zip(own, given, strict=True)], model.device)
        states = model.states(model.embed(ids), mask, (mask.cumsum(1) - 1).clamp(min=0))[:, -span:]
        log_probs = model.code_logits(states).float().log_softmax(-1)
        found.append(log_probs.gather(-1, images.to(model.device)[..., None])[..., 0].sum(1))
    return torch.cat(found) if found else torch.zeros(0, device=model.device)


def decode_image(sequences: CachedSequences, sampling: Sampling) -> Int[Tensor, "b n"]:
    """Codes (B, 32) of one image a row, each after begin-of-image; the last code is not yet in the sequences."""
    if sampling.temperature == 0 and (sequences.cache is not None or len(sequences.states) == 1):
        return _jacobi_decode(sequences, _draft(sequences.model, len(sequences.states)))
    model, states, codes = sequences.model, sequences.states, []
    for _ in range(model.vocabulary.span):
        codes.append(sampling.next_tokens(model.code_logits(states)))
        if len(codes) < model.vocabulary.span:
            states = sequences.append(codes[-1] + model.vocabulary.first_code)
    return torch.stack(codes, dim=1)


def _draft(model: JointLM, rows: int) -> int:
    """Codes of a row that one forward checks: one where a forward of more takes as many times as long.

    That is so in half precision on a CPU that computes it slowly; elsewhere a forward of few codes is bound by memory.
    """
    if model.device.type == "cpu" and model.lm.dtype != torch.float32 and not computes_bfloat16_fast(model.device):
        return 1
    return DRAFT if rows == 1 else BATCH_DRAFT


def _jacobi_decode(sequences: CachedSequences, draft: int) -> Int[Tensor, "b n"]:
    """The greedy codes of one image a row, several a forward (Jacobi decoding; Santilli et al. 2023).

    A forward takes a draft of the next codes and predicts the code after each of them. It accepts the longest prefix of
    the draft that the model agrees with; its own predictions beyond are the draft of the next forward. Each row
    advances on its own: of the positions of a forward, those that a row does not accept are masked out.
    """
    model, vocabulary = sequences.model, sequences.model.vocabulary
    span, steps = vocabulary.span, torch.arange(draft, device=sequences.states.device)
    order = torch.arange(vocabulary.span + draft, device=steps.device)
    first = model.code_logits(sequences.states).max(-1, keepdim=True).indices
    codes = first.repeat(1, span + draft)  # the first code is the model's; the rest is a draft of any kind
    accepted = torch.ones_like(first)  # (B, 1)
    while (least := int(accepted.min())) < span:
        places = accepted - 1 + steps[: span - least]  # of the draft in the image
        inside = places < span - 1  # a code follows
        drafted = codes.gather(1, places)
        states = sequences.extend(drafted + vocabulary.first_code, inside)
        predicted = model.code_logits(states).max(-1).indices  # on a CPU a third of the time of argmax
        agrees = (predicted[:, :-1] == drafted[:, 1:]) & inside[:, 1:]
        gained = agrees.long().cumprod(1).sum(1, keepdim=True) + 1
        gained = gained.where(inside[:, :1], 0)  # nothing where the image is complete
        codes.scatter_(1, places + 1, predicted)
        codes = codes.where(order <= places[:, -1:] + 1, predicted[:, -1:])  # the last one again: images repeat codes
        accepted = accepted + gained
        sequences.accept(gained[:, 0], drafted.shape[1])
    return codes[:, :span]


def search_image(sequences: CachedSequences, beams: int) -> Int[Tensor, "b n"]:
    """Codes (B, 32) of the most likely image a row that a beam search finds, each after begin-of-image."""
    model, vocabulary, states = sequences.model, sequences.model.vocabulary, sequences.states
    batch, device = len(states), states.device
    scores, codes = torch.zeros(batch, 1, device=device), torch.zeros(batch, 1, 0, dtype=torch.long, device=device)
    for step in range(vocabulary.span):
        log_probs = model.code_logits(states).float().log_softmax(-1).unflatten(0, (batch, -1))
        candidates = (scores[..., None] + log_probs).flatten(1)  # (B, beams * codes)
        scores, best = candidates.topk(beams, dim=1)
        parents, chosen = best // log_probs.shape[-1], best % log_probs.shape[-1]
        codes = torch.cat([codes.gather(1, parents[..., None].expand(-1, -1, step)), chosen[..., None]], dim=2)
        if step + 1 < vocabulary.span:
            first = torch.arange(batch, device=device)[:, None] * log_probs.shape[1]
            sequences.select_rows((first + parents).flatten())
            states = sequences.append(chosen.flatten() + vocabulary.first_code)
    return codes[:, 0]
