"""Nothing in, nothing out: every call of the library takes an empty list."""

from pathlib import Path

import numpy as np
import pytest
import torch

from seedtok import SeedLM, SeedTokenizer
from seedtok.core.errors import ImageError, InputError


@pytest.fixture(scope="module")
def lm() -> SeedLM:
    return SeedLM.from_pretrained()


def test_a_tokenizer_of_nothing(tiny_tokenizer: Path):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    codes = tokenizer.encode([])
    assert (codes.shape, codes.dtype) == ((0, 32), torch.int64)
    assert tokenizer.decode(codes) == tokenizer.decode([]) == []
    for from_codes in (False, True):
        assert tokenizer.embed_images([], from_codes=from_codes).shape == (0, 16)
    assert tokenizer.embed_texts([]).shape == (0, 16)
    with pytest.raises(ImageError):
        tokenizer.encode(np.zeros((0, 4, 3), np.uint8))  # a picture without pixels is another thing


def test_a_language_model_of_nothing(lm: SeedLM):
    assert lm.caption([]) == lm.answer([], []) == lm.draw([]) == []
    assert lm.caption(torch.zeros(0, 32, dtype=torch.int64), num_beams=1) == []
    with pytest.raises(InputError, match="1 questions about 0 images"):
        lm.answer([], ["What?"])


def test_a_batch_size_of_nothing_is_refused_before_a_picture_is_read(lm: SeedLM):
    for call in (
        lambda: lm.caption("nowhere.png", batch_size=0),
        lambda: lm.answer("nowhere.png", "What?", batch_size=0),
    ):
        with pytest.raises(InputError, match="a batch size of 0"):
            call()
