"""The compiled encoder gives the codes of the plain one, for batches of any size."""

import shutil

import pytest
import torch

from seedtok.tokenizer.compiled import Compiled
from seedtok.tokenizer.seed import SeedTokenizer

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


@compiler
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_codes_are_those_of_the_plain_encoder(tiny_tokenizer):
    plain, compiled = (SeedTokenizer.from_pretrained(tiny_tokenizer) for _ in range(2))
    compiled.compile_encoder(batch_size=4)
    side = plain.config.embedder.vision.image_size
    pixels = torch.randn(10, 3, side, side)
    for count in (10, 4, 1):
        assert torch.equal(compiled.encode_pixels(pixels[:count]), plain.encode_pixels(pixels[:count]))


def test_without_a_compiler_it_says_so(monkeypatch, tiny_tokenizer):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        SeedTokenizer.from_pretrained(tiny_tokenizer).compile_encoder()


def test_batches_are_cut_and_filled(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    run = Compiled(lambda x: seen.append(len(x)) or x + 1, 4, torch.device("meta"))
    assert torch.equal(run(torch.arange(10)), torch.arange(1, 11))
    assert seen == [4, 4, 4]
