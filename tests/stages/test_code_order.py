"""Codes given out in another fixed order hold the same, and say so."""

from dataclasses import replace

import pytest
import torch

from seedtok.core.errors import ConfigError
from seedtok.lm.seed_lm import SeedLM
from seedtok.stages.autoregression import shuffle_codes
from seedtok.tokenizer.seed import SeedTokenizer


@pytest.fixture
def shuffled(tiny_tokenizer) -> SeedTokenizer:
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    shuffle_codes(tokenizer, 5)
    return tokenizer


def test_codes_are_reordered_and_mean_the_same(seed, shuffled):
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    plain, other = seed.encode(images), shuffled.encode(images)
    order = shuffled.config.code_order
    assert order is not None
    assert order != tuple(range(32))
    assert torch.equal(other, plain[:, list(order)])
    assert torch.equal(shuffled.encode_pixels(shuffled.pixels(images)), other)
    assert torch.equal(shuffled.lookup(other), seed.lookup(plain))


def test_stored_codes_of_one_order_are_not_taken_for_those_of_another(seed, shuffled):
    assert shuffled.codebook_id != seed.codebook_id
    again = SeedTokenizer(replace(shuffled.config, code_order=None))
    again.codebook.load_state_dict(shuffled.codebook.state_dict())
    assert again.codebook_id == seed.codebook_id


def test_the_order_is_saved_with_the_language_model_that_learns_it(bases, shuffled, tmp_path):
    SeedLM.build(bases["opt"], shuffled).save_pretrained(tmp_path / "lm")
    again = SeedLM.from_pretrained(tmp_path / "lm").seed
    assert again.config.code_order == shuffled.config.code_order
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again.encode(images), shuffled.encode(images))


def test_an_order_has_each_code_once(seed):
    with pytest.raises(ConfigError, match=r"each of 0\.\.31 once"):
        replace(seed.config, code_order=tuple([0] * 32))
