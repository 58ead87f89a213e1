"""What the paper promises of its tokens, as properties: causal, discrete, one image at a time or many."""

import contextlib

import pytest
import torch
from torch import nn

from seedtok.tokenizer.causal_qformer import QFormer, QFormerConfig
from seedtok.tokenizer.code_decoder import CodeDecoder, CodeDecoderConfig
from seedtok.tokenizer.codebook import Codebook, CodebookConfig
from seedtok.tokenizer.reverse_qformer import ReverseQFormer, ReverseQFormerConfig
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer

WIDTH = 24


def qformer(**changes) -> QFormer:
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "layers": 3, "heads": 4, "mlp_width": 48, "encoder_width": 20, "vocab_size": 40}
    return QFormer(QFormerConfig(**(sizes | changes))).eval()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [0, 1, 13, 20, 31])
def test_later_queries_do_not_reach_earlier_ones(k, dtype):
    model = qformer().to(dtype)
    features = torch.randn(3, 17, 20, dtype=dtype)
    before = model(features)
    model.query_tokens[:, k] += torch.randn(WIDTH, dtype=dtype)
    after = model(features)
    assert torch.equal(before[:, :k], after[:, :k])
    assert (before[:, k:] != after[:, k:]).any(dim=2).any(dim=0).all()


@torch.no_grad()
def test_text_reaches_every_query_and_no_later_query_does():
    model = qformer()
    features, ids = torch.randn(2, 17, 20), torch.randint(0, 40, (2, 5))
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    queries, text = model.forward_joint(features, ids, mask)

    changed = ids.clone()
    changed[:, 2] = (ids[:, 2] + 1) % 40
    assert (model.forward_joint(features, changed, mask)[0] != queries).any(dim=2).all()
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % 40  # padding
    assert torch.equal(model.forward_joint(features, changed, mask)[0], queries)

    model.query_tokens[:, 31] += torch.randn(WIDTH)
    after = model.forward_joint(features, ids, mask)
    # The text read query 31 in layer 1 and every query reads the text: causal in the mask, not end to end.
    assert (after[0][:, 31] != queries[:, 31]).any()
    assert (after[1] != text).any()


@torch.no_grad()
def test_bidirectional_queries_reach_all():
    model = qformer(causal=False)
    features = torch.randn(2, 17, 20)
    before = model(features)
    model.query_tokens[:, 31] += torch.randn(WIDTH)
    assert (before != model(features)).any(dim=2).all()


def parts() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Every network of the tokenizer with a batch of 8."""
    torch.manual_seed(1)
    vision = VisionConfig(image_size=28, patch_size=7, width=WIDTH, layers=2, heads=4, mlp_width=48)
    decoder = CodeDecoderConfig(width=WIDTH, layers=2, heads=4)
    reverse = ReverseQFormerConfig(
        queries=7, width=WIDTH, layers=3, heads=4, mlp_width=48, encoder_width=WIDTH, output_width=16
    )
    return {
        "vision": (VisionTransformer(vision), torch.randn(8, 3, 28, 28)),
        "causal_qformer": (qformer(), torch.randn(8, 17, 20)),
        "code_decoder": (CodeDecoder(decoder), torch.randn(8, 32, WIDTH)),
        "reverse_qformer": (ReverseQFormer(reverse), torch.randn(8, 32, WIDTH)),
    }


@torch.no_grad()
@pytest.mark.parametrize("part", parts())
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_batch_of_one_is_the_row_of_eight(part, precision):
    model, batch = parts()[part]
    model.eval()
    if precision == "bfloat16":
        model, batch = model.to(torch.bfloat16), batch.to(torch.bfloat16)
    autocast = torch.autocast("cpu", torch.bfloat16)
    with autocast if precision == "autocast" else contextlib.nullcontext():
        eight, one, again = model(batch), model(batch[3:4]), model(batch)
    assert torch.equal(eight, again)
    tolerance = 1e-5 if precision == "float32" else 0.05
    torch.testing.assert_close(one[0], eight[3], rtol=0, atol=tolerance * float(eight.abs().max()))


@pytest.mark.parametrize("part", parts())
def test_trains_in_bfloat16(part):
    model, batch = parts()[part]
    model.train().to(torch.bfloat16)
    model(batch.to(torch.bfloat16)).float().square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    assert all(g.isfinite().all() for g in grads)


@torch.no_grad()
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_round_trip(normalize, dtype):
    torch.manual_seed(2)
    codebook = Codebook(CodebookConfig(size=100, dim=8, normalize=normalize)).eval()
    nn.init.normal_(codebook.weight)
    codebook.to(dtype)
    codes = torch.randint(0, 100, (4, 32))
    vectors, again, _ = codebook(codebook.lookup(codes))
    assert torch.equal(again, codes)
    assert torch.equal(vectors, codebook.lookup(codes))
    assert torch.equal(codebook.lookup(codes[2]), codebook.lookup(codes)[2])
