"""Codes as users give them: integers of any width, as tensors, arrays or lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from seedtok.core.errors import InputError

Codes = Integer[Tensor, "*b n"] | Integer[np.ndarray, "*b n"] | Iterable[Any]


def as_codes(given: Codes, span: int) -> Int[Tensor, "b n"]:
    """Codes (B, span) or (span,), or rows of them, one by one -> codes (B, span) int64; no rows give (0, span).

    Raises InputError for anything but integers, and for other than `span` codes in a row.
    """
    codes = as_integers(given)
    if codes.ndim == 1:
        codes = codes[None] if len(codes) else codes.view(0, span)
    if codes.ndim != 2 or codes.shape[1] != span:
        raise InputError(f"codes of shape {tuple(codes.shape)}; expected {span} codes for each image")
    return codes


def as_integers(given: Any) -> Int[Tensor, "..."]:
    """Integers of any width and shape, as a tensor, an array, rows or a number -> a tensor of them, int64.

    Raises InputError for anything else.
    """
    try:
        codes = _tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError("expected codes as rows of integers of one length") from None
    if codes.numel() and (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool):
        raise InputError(f"codes of {codes.dtype}; expected integers")
    return codes.long()


def _tensor(given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given
    if isinstance(given, np.ndarray | np.integer):
        own = np.int64 if given.dtype.kind in "iu" else given.dtype  # torch has not all integers of numpy
        return torch.from_numpy(np.array(given, own))  # a copy, because torch warns of arrays that are read-only
    if isinstance(given, int):
        return torch.tensor(given, device="cpu")
    rows = [row.tolist() if isinstance(row, Tensor | np.ndarray | np.generic) else row for row in given]
    return torch.tensor(rows, device="cpu")


def are_codes(given: Any, span: int) -> bool:
    """Whether what may be images or codes is codes, valid or not.

    No image has one dimension, or two in a tensor; an array of two is one if it has floats or 8 bits, or another width.
    """
    if isinstance(given, Tensor | np.ndarray):
        is_picture = isinstance(given, np.ndarray) and (given.dtype == np.uint8 or given.dtype.kind not in "iu")
        return given.ndim == 1 or (given.ndim == 2 and given.shape[1] == span and not is_picture)
    if not isinstance(given, list | tuple) or not given:
        return False
    first = given[0]
    return isinstance(first, int | np.integer) or (getattr(first, "ndim", 1) == 1 and are_codes(first, span))
