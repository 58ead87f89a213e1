"""The layout of the joint sequence of Figure 4: which ids are text, which are codes, begin and end of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from seedtok.core.errors import InputError


@dataclass(frozen=True)
class Vocabulary:
    """Ids of text, codes and the two image boundaries in one vocabulary.

    Code c has the id `first_code + c`. Ids below `text` are text; SEED-OPT and SEED-LLaMA have the codes after them,
    then the two boundaries (`after_text`), and any other order is described by the three fields.
    """

    first_code: int
    begin: int  # id of begin-of-image
    end: int  # id of end-of-image
    codes: int = 8192  # size of the codebook
    span: int = 32  # codes of an image

    def __post_init__(self) -> None:
        codes = range(self.first_code, self.first_code + self.codes)
        if self.codes < 1 or self.span < 1 or self.begin == self.end or self.begin in codes or self.end in codes:
            raise InputError(f"expected at least one code, and different ids for codes, begin and end; got {self}")

    @classmethod
    def after_text(cls, text: int, codes: int = 8192, span: int = 32) -> Vocabulary:
        """The layout of SEED-OPT over a language model with `text` ids: text, codes, begin, end."""
        return cls(text, text + codes, text + codes + 1, codes, span)

    @property
    def text(self) -> int:
        """How many ids, from 0, are text."""
        return min(self.first_code, self.begin, self.end)

    @property
    def size(self) -> int:
        """How many ids there are up to the last visual one."""
        return max(self.first_code + self.codes, self.begin + 1, self.end + 1)

    @property
    def code_slice(self) -> slice:
        """Where the codes are among all ids."""
        return slice(self.first_code, self.first_code + self.codes)

    def code_ids(self, codes: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
        """Codes -> their ids in the joint vocabulary."""
        return codes + self.first_code

    def image_ids(self, codes: Int[Tensor, "*b n"]) -> Int[Tensor, "*b m"]:
        """Codes (..., 32) -> ids of an image in a sequence (..., 34): begin, codes, end.

        Raises:
            InputError: another number of codes, or one out of range.
        """
        if codes.shape[-1] != self.span:
            raise InputError(f"an image is {self.span} codes; got {codes.shape[-1]}")
        if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < self.codes):
            raise InputError(f"codes are {int(codes.min())}..{int(codes.max())}; valid are 0..{self.codes - 1}")
        boundaries = codes.new_tensor([self.begin, self.end]).expand(*codes.shape[:-1], 2)
        return torch.cat([boundaries[..., :1], self.code_ids(codes), boundaries[..., 1:]], dim=-1)

    def is_visual(self, ids: Int[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
        """Which ids are codes or image boundaries."""
        return (ids == self.begin) | (ids == self.end) | self.is_code(ids)

    def is_code(self, ids: Int[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
        """Which ids are codes."""
        return (ids >= self.first_code) & (ids < self.first_code + self.codes)
