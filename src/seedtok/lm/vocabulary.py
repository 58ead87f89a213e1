"""The layout of the joint sequence of Figure 4: which ids are text, which are codes, begin and end of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from seedtok.core.errors import InputError
from seedtok.tokenizer.given_codes import as_integers


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

    def code_ids(self, codes: Any) -> Int[Tensor, "..."]:
        """Codes as tensors, arrays or rows of any integer type -> their ids in the joint vocabulary, int64.

        Raises:
            InputError: no integers, or a code out of range.
        """
        given = as_integers(codes)
        if given.numel() and not (int(given.min()) >= 0 and int(given.max()) < self.codes):
            raise InputError(f"codes are {int(given.min())}..{int(given.max())}; valid are 0..{self.codes - 1}")
        return given + self.first_code

    def codes_of(self, ids: Any) -> Int[Tensor, "..."]:
        """Ids of codes, given as codes are for `code_ids` -> the codes, int64.

        Raises:
            InputError: no integers, or an id that is of no code.
        """
        ids = as_integers(ids)
        if not bool(self.is_code(ids).all()):
            wrong = int(ids[~self.is_code(ids)][0])
            raise InputError(
                f"the id {wrong} is of no code; ids of codes are {self.first_code}..{self.first_code + self.codes - 1}"
            )
        return ids - self.first_code

    def image_ids(self, codes: Any) -> Int[Tensor, "*b m"]:
        """Codes (..., 32), as for `code_ids` -> ids of an image in a sequence (..., 34): begin, codes, end.

        Raises:
            InputError: no integers, another number of codes, or one out of range.
        """
        given = as_integers(codes)
        if given.ndim == 0 or given.shape[-1] != self.span:
            raise InputError(f"an image is {self.span} codes; got {given.shape[-1] if given.ndim else 1}")
        boundaries = given.new_tensor([self.begin, self.end]).expand(*given.shape[:-1], 2)
        return torch.cat([boundaries[..., :1], self.code_ids(given), boundaries[..., 1:]], dim=-1)

    def is_visual(self, ids: Int[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
        """Which ids are codes or image boundaries."""
        return (ids == self.begin) | (ids == self.end) | self.is_code(ids)

    def is_code(self, ids: Int[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
        """Which ids are codes."""
        return (ids >= self.first_code) & (ids < self.first_code + self.codes)
