"""Codes as users give them: of any integer type, as stored codes are of 16 bits."""

import numpy as np
import pytest
import torch

from seedtok.tokenizer.seed import SeedTokenizer


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_codes_of_any_integer_type_are_the_same_codes(tiny_tokenizer, kind):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    queries = tokenizer.config.embedder.qformer.queries
    codes = np.arange(2 * queries).reshape(2, queries) % min(tokenizer.config.codebook.size, 256)
    expected = tokenizer.lookup(torch.from_numpy(codes))
    assert torch.equal(tokenizer.lookup(torch.from_numpy(codes.astype(kind))), expected)
    assert torch.equal(tokenizer.lookup(codes.astype(kind)[0]), expected[:1])
    if kind == np.uint16:
        assert len(tokenizer.decode(codes.astype(kind), num_inference_steps=1)) == 2
