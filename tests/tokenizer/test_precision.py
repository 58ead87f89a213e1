"""Encoding with products in bfloat16 and all else in float32, `dtype="auto"`."""

import torch

from seedtok import SeedTokenizer

NARROW = (".attention.qkv.", ".attention.out.", ".mlp.up.", ".mlp.down.", ".cross.kv.")


def is_narrow(name: str) -> bool:
    of_vit = name.startswith("embedder.vision.blocks.") and any(part in name for part in NARROW[:4])
    return of_vit or (name.startswith("embedder.qformer.") and NARROW[4] in name)


@torch.no_grad()
def test_auto_is_bfloat16_for_the_products_of_the_vit_alone(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("seedtok.tokenizer.seed.computes_bfloat16_fast", lambda device: True)
    exact = SeedTokenizer.from_pretrained(tiny_tokenizer)
    mixed = SeedTokenizer.from_pretrained(tiny_tokenizer, dtype="auto")
    pure = SeedTokenizer.from_pretrained(tiny_tokenizer, dtype=torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in mixed.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype == torch.bfloat16} == set(filter(is_narrow, dtypes))
    assert mixed.dtype == torch.float32
    pixels = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = exact.encode_head(exact.causal_embeddings(pixels))
    near = mixed.encode_head(mixed.causal_embeddings(pixels))
    far = pure.encode_head(pure.causal_embeddings(pixels.bfloat16()))
    assert near.dtype == torch.float32
    assert 0 < (near - expected).norm() < 0.8 * (far - expected).norm()
    assert torch.equal(mixed.encode_pixels(pixels[3:4]), mixed.encode_pixels(pixels)[3:4])


def test_auto_is_float32_where_bfloat16_is_slow(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("seedtok.tokenizer.seed.computes_bfloat16_fast", lambda device: False)
    slow = SeedTokenizer.from_pretrained(tiny_tokenizer, dtype="auto")
    assert {tensor.dtype for tensor in slow.parameters()} == {torch.float32}
