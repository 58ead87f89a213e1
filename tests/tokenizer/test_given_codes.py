"""Codes as users give them: of any integer type, as stored codes are of 16 bits."""

import numpy as np
import pytest
import torch

from seedtok.core.errors import InputError
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


def test_many_are_drawn_and_embedded_in_batches(tiny_tokenizer):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    codes = torch.randint(tokenizer.config.codebook.size, (5, 32), generator=torch.Generator().manual_seed(0))

    def drawn(batch_size: int, one_each: bool) -> list[np.ndarray]:
        generators = [torch.Generator().manual_seed(number) for number in range(5)]
        generator = generators if one_each else generators[0]
        made = tokenizer.decode(codes, num_inference_steps=1, generator=generator, batch_size=batch_size)
        return [np.asarray(picture, dtype=np.int16) for picture in made]

    for one_each in (False, True):
        for one, other in zip(drawn(5, one_each), drawn(2, one_each), strict=True):
            assert np.abs(one - other).max() <= 1
    pictures = [np.full((32, 32, 3), 40 * number, np.uint8) for number in range(5)]
    torch.testing.assert_close(tokenizer.embed_images(pictures, batch_size=2), tokenizer.embed_images(pictures))
    assert tokenizer.embed_images([]).shape == (0, tokenizer.embed_images(pictures).shape[1])
    with pytest.raises(InputError, match="2 generators for 5 images"):
        tokenizer.decode(codes, generator=[torch.Generator(), torch.Generator()])
    with pytest.raises(InputError, match="a batch size of 0"):
        tokenizer.decode(codes, batch_size=0)
