"""Codes as users give them: of any integer type, as stored codes are of 16 bits."""

import warnings

import numpy as np
import pytest
import torch

from seedtok.core.errors import InputError
from seedtok.tokenizer.given_codes import are_codes
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


def test_codes_come_as_rows_of_any_kind(tiny_tokenizer):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    codes = torch.randint(8192, (2, 32), generator=torch.Generator().manual_seed(0))
    expected, stored = tokenizer.lookup(codes), codes.numpy().astype(np.uint16)
    stored.flags.writeable = False  # as codes that are memory-mapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (list(codes), tuple(codes.int()), list(stored), codes.tolist(), iter(codes), stored):
            assert torch.equal(tokenizer.lookup(rows), expected)
    assert len(tokenizer.decode((row for row in codes), 1, dtype="bfloat16")) == 2
    assert tokenizer.decode([]) == []
    assert tokenizer.lookup([]).shape == (0, *expected.shape[1:])
    for wrong in (codes.float(), [codes[0].float()], codes[:, :31], codes[None], [[1, 2], [3]], torch.tensor(3), "x"):
        with pytest.raises(InputError, match=r"expected (integers|32 codes for each image|codes as rows)"):
            tokenizer.lookup(wrong)
    with pytest.raises(InputError, match="0 denoising steps"):
        tokenizer.decode(codes, num_inference_steps=0)


def test_what_is_codes_and_what_is_an_image():
    row = torch.arange(32)
    for codes in (row, row.float(), row[None], row[None].byte(), row.numpy()[None].astype(np.uint16), [row, row],
                  row.tolist(), [row.tolist()], list(row.numpy()), [row.numpy().astype(np.uint8)]):  # fmt: skip
        assert are_codes(codes, 32)
    gray = np.zeros((40, 32), np.uint8)
    for image in (gray, gray / 255, gray > 0, [gray], torch.zeros(3, 8, 32, dtype=torch.uint8), torch.zeros(8, 8),
                  np.zeros((8, 32, 3), np.uint8), "a.png", ["a.png"], [], b"x", {}, [{}]):  # fmt: skip
        assert not are_codes(image, 32)


def test_texts_come_one_by_one(tiny_tokenizer):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    expected = tokenizer.embed_texts(["a fox", "a cat"])
    assert torch.equal(tokenizer.embed_texts(text for text in ("a fox", "a cat")), expected)
    assert torch.equal(tokenizer.embed_texts(np.array(["a fox", "a cat"])), expected)


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
