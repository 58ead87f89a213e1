"""Encoding with products in bfloat16 and all else in float32, `dtype="auto"`."""

import torch

from seedtok import SeedTokenizer
from seedtok.stages.autoregression import shuffle_codes

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
    assert slow.encoder_dtype == "auto", "codes that a faster machine began are gone on with"
    assert slow.to(torch.bfloat16).encoder_dtype == "bfloat16"


# ---------------------------------------------------------------- what tells encoders apart


def test_a_checkpoint_has_one_fingerprint_in_every_dtype(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("seedtok.tokenizer.seed.computes_bfloat16_fast", lambda device: True)
    exact = SeedTokenizer.from_pretrained(tiny_tokenizer)
    expected, dtypes = exact.encoder_fingerprint, []
    for dtype in ("float32", "float16", "bfloat16", "auto"):
        tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer, dtype=dtype)
        assert tokenizer.encoder_fingerprint == expected
        dtypes.append(tokenizer.encoder_dtype)
    assert dtypes == ["float32", "float16", "bfloat16", "auto"]
    assert exact.to(torch.bfloat16).encoder_fingerprint == expected


@torch.no_grad()
def test_encoders_of_one_codebook_differ_in_their_fingerprint(tiny_tokenizer, tmp_path):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    codebook, encoder = tokenizer.codebook_id, tokenizer.encoder_fingerprint
    tokenizer.decode_head[0].weight.add_(1.0)
    assert tokenizer.encoder_fingerprint == encoder
    for weight in (tokenizer.embedder.vision.blocks[0].mlp.up.weight, tokenizer.encode_head[0].weight):
        weight.mul_(1.0001)
        assert tokenizer.encoder_fingerprint != encoder
        encoder = tokenizer.encoder_fingerprint
    assert tokenizer.codebook_id == codebook
    tokenizer.save_pretrained(tmp_path)
    assert SeedTokenizer.from_pretrained(tmp_path).encoder_fingerprint == encoder
    shuffle_codes(tokenizer, 0)
    assert tokenizer.encoder_fingerprint != encoder
