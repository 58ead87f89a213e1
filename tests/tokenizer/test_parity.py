"""Our networks against transformers' on tiny random models; the losses against plain loops."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from seedtok.tokenizer.causal_qformer import QFormer, QFormerConfig
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer
from seedtok.training.losses import contrastive_loss, cosine_loss, max_query_similarity

QUERIES, WIDTH, LAYERS, ENCODER_WIDTH, VOCAB, PATCHES, TEXT = 6, 24, 4, 20, 50, 9, 7


def assert_close(ours: Tensor, theirs: Tensor, name: str = "", tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error <= tolerance, f"{name}: {error:.1e} relative"


def randomise(module: nn.Module, seed: int) -> None:
    """Weights large enough to matter, biases and norms away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = 1 + 0.2 * noise if is_norm else 0.2 * noise


class Blip2WithText(nn.Module):
    """transformers' Q-Former with the query tokens and text embeddings that other classes own there."""

    def __init__(self):
        super().__init__()
        config = Blip2QFormerConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=16,
            encoder_hidden_size=ENCODER_WIDTH,
            use_qformer_text_input=True,
        )
        self.bert = Blip2QFormerModel(config)
        self.text = Blip2TextEmbeddings(config)
        self.query_tokens = nn.Parameter(torch.zeros(1, QUERIES, WIDTH))

    def renamed(self, grads: bool = False) -> dict[str, Tensor]:
        """Parameters, or their gradients, under our names; every one is used."""
        theirs = {k: p.grad if grads else p.data for k, p in self.named_parameters()}
        ours = {"query_tokens": theirs.pop("query_tokens")}
        for kind in ("word", "position"):
            ours[f"{kind}_embeddings.weight"] = theirs.pop(f"text.{kind}_embeddings.weight")

        def take(old: str, new: str, parts: tuple[str, ...] = ("",)) -> None:
            for kind in ("weight", "bias"):
                ours[f"{new}.{kind}"] = torch.cat([theirs.pop(f"bert.{old}{part}.{kind}") for part in parts])

        take("layernorm", "embedding_norm")
        for i in range(LAYERS):
            old, new = f"encoder.layer.{i}", f"layers.{i}"
            take(f"{old}.attention.attention.", f"{new}.attention.qkv", ("query", "key", "value"))
            take(f"{old}.attention.output.dense", f"{new}.attention.out")
            take(f"{old}.attention.output.LayerNorm", f"{new}.attention_norm")
            if i % 2 == 0:
                take(f"{old}.crossattention.attention.query", f"{new}.cross.query")
                take(f"{old}.crossattention.attention.", f"{new}.cross.kv", ("key", "value"))
                take(f"{old}.crossattention.output.dense", f"{new}.cross.out")
                take(f"{old}.crossattention.output.LayerNorm", f"{new}.cross_norm")
            for kind, suffix in (("query", "_query"), ("text", "")):
                take(f"{old}.intermediate{suffix}.dense", f"{new}.{kind}_mlp.up")
                take(f"{old}.output{suffix}.dense", f"{new}.{kind}_mlp.down")
                take(f"{old}.output{suffix}.LayerNorm", f"{new}.{kind}_mlp_norm")
        assert not theirs
        return ours


def qformers(causal: bool) -> tuple[Blip2WithText, QFormer]:
    theirs = Blip2WithText().eval()
    randomise(theirs, seed=0)
    config = QFormerConfig(
        queries=QUERIES,
        width=WIDTH,
        layers=LAYERS,
        heads=4,
        mlp_width=40,
        encoder_width=ENCODER_WIDTH,
        vocab_size=VOCAB,
        max_text_positions=16,
        causal=causal,
    )
    ours = QFormer(config).eval()
    ours.load_state_dict(theirs.renamed())
    return theirs, ours


def assert_same_grads(ours: QFormer, theirs: Blip2WithText) -> None:
    for parameter in theirs.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for name, expected in theirs.renamed(grads=True).items():
        grad = ours.get_parameter(name).grad
        if grad is None:
            assert not expected.any(), name
        else:  # a floor to the scale, for parts whose gradient is zero but for rounding
            assert (grad - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1e-2), name


@pytest.mark.parametrize("causal", [False, True])
def test_queries(causal):
    theirs, ours = qformers(causal)
    torch.manual_seed(1)
    features, weights = torch.randn(3, PATCHES, ENCODER_WIDTH), torch.randn(3, QUERIES, WIDTH)
    mask = torch.ones(QUERIES, QUERIES, dtype=torch.bool).tril()[None, None].expand(3, 1, -1, -1)
    expected = theirs.bert(
        query_embeds=theirs.query_tokens.expand(3, -1, -1),
        attention_mask=mask if causal else None,
        encoder_hidden_states=features,
    ).last_hidden_state
    out = ours(features)
    assert_close(out, expected)

    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_same_grads(ours, theirs)


def text_batch() -> tuple[Tensor, Tensor]:
    mask = torch.ones(3, TEXT, dtype=torch.int64)
    mask[0, 4:] = 0
    mask[2, 2:] = 0
    return torch.randint(1, VOCAB, (3, TEXT)), mask


def test_text():
    theirs, ours = qformers(causal=True)
    torch.manual_seed(2)
    ids, mask = text_batch()
    expected = theirs.bert(query_embeds=theirs.text(ids), query_length=0, attention_mask=mask).last_hidden_state
    out = ours.encode_text(ids, mask)
    assert_close(out[mask.bool()], expected[mask.bool()])

    weights = torch.randn(3, TEXT, WIDTH) * mask[..., None]
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_same_grads(ours, theirs)


@pytest.mark.parametrize("causal", [False, True])
def test_queries_and_text(causal):
    theirs, ours = qformers(causal)
    torch.manual_seed(3)
    features, (ids, mask) = torch.randn(3, PATCHES, ENCODER_WIDTH), text_batch()
    sees = torch.ones(3, 1, QUERIES + TEXT, QUERIES + TEXT, dtype=torch.bool)
    if causal:
        sees[:, :, :QUERIES, :QUERIES] = torch.ones(QUERIES, QUERIES).tril().bool()
    sees[..., QUERIES:] &= mask.bool()[:, None, None]
    expected = theirs.bert(
        query_embeds=theirs.text(ids, query_embeds=theirs.query_tokens.expand(3, -1, -1)),
        query_length=QUERIES,
        attention_mask=sees,
        encoder_hidden_states=features,
    ).last_hidden_state
    queries, text = ours.forward_joint(features, ids, mask)
    assert_close(queries, expected[:, :QUERIES])
    assert_close(text[mask.bool()], expected[:, QUERIES:][mask.bool()])

    weights = torch.randn(3, QUERIES, WIDTH)
    (queries * weights).sum().backward()
    (expected[:, :QUERIES] * weights).sum().backward()
    assert_same_grads(ours, theirs)


def test_copy_text_ffn_to_query():
    _, ours = qformers(causal=True)
    ours.copy_text_ffn_to_query()
    for layer in ours.layers:
        assert torch.equal(layer.query_mlp.up.weight, layer.text_mlp.up.weight)
        assert torch.equal(layer.query_mlp.down.bias, layer.text_mlp.down.bias)
        assert torch.equal(layer.query_mlp_norm.weight, layer.text_mlp_norm.weight)


def test_text_branch_is_optional():
    ours = QFormer(QFormerConfig(width=24, layers=2, heads=4, mlp_width=40, encoder_width=20, vocab_size=None))
    assert not [name for name, _ in ours.named_parameters() if "text" in name or "word" in name]
    with pytest.raises(ValueError, match="no text branch"):
        ours.encode_text(*text_batch())
    with pytest.raises(ValueError, match="no text branch"):
        ours.copy_text_ffn_to_query()


def test_text_too_long():
    _, ours = qformers(causal=True)
    with pytest.raises(ValueError, match="17 tokens"):
        ours.encode_text(torch.ones(1, 17, dtype=torch.int64), torch.ones(1, 17, dtype=torch.int64))


SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_vit(activation):
    theirs = CLIPVisionModel(CLIPVisionConfig(**SIZES, hidden_act=activation)).eval()
    randomise(theirs, seed=4)
    ours = VisionTransformer.from_clip(theirs)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    assert_close(ours(pixels), theirs(pixels, output_hidden_states=True).hidden_states[-1])


def test_blip2_vit():
    theirs = Blip2VisionModel(Blip2VisionConfig(**SIZES)).eval()
    randomise(theirs, seed=6)
    ours = VisionTransformer.from_blip2(theirs)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(7))
    assert_close(ours(pixels), theirs(pixels, output_hidden_states=True).hidden_states[-1])
    theirs.bfloat16()
    assert VisionTransformer.from_blip2(theirs).class_token.dtype == torch.bfloat16


def test_vit_is_loaded_strictly():
    theirs = Blip2VisionModel(Blip2VisionConfig(**SIZES))
    theirs.register_parameter("surplus", nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="surplus"):
        VisionTransformer.from_blip2(theirs)
    with pytest.raises(ValueError, match="resize"):
        VisionTransformer(VisionConfig(28, 7, 24, 1, 4, 40))(torch.zeros(1, 3, 35, 28))


def test_paper_vit_is_blip2s():
    paper, theirs = VisionConfig.paper(), Blip2VisionConfig()
    assert (paper.width, paper.layers, paper.heads, paper.mlp_width, paper.layer_norm_eps) == (
        theirs.hidden_size,
        theirs.num_hidden_layers,
        theirs.num_attention_heads,
        theirs.intermediate_size,
        theirs.layer_norm_eps,
    )
    assert (paper.image_size, paper.patch_size, paper.patches) == (theirs.image_size, theirs.patch_size, 256)


def test_contrastive_loss_of_shards_is_that_of_the_whole():
    torch.manual_seed(8)
    image, text = torch.randn(6, 5), torch.randn(6, 5)
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / 0.07
    expected = 0.0
    for rows in (logits, logits.T):
        for i, row in enumerate(rows.log_softmax(dim=1)):
            expected += -(0.9 * row[i] + 0.1 * row.mean()) / 12
    whole = contrastive_loss(image, text, image, text, 0.07)
    halves = [contrastive_loss(image[i:][:3], text[i:][:3], image, text, 0.07, offset=i) for i in (0, 3)]
    assert_close(whole, expected)
    assert_close(sum(halves) / 2, expected)


def test_max_query_similarity():
    torch.manual_seed(9)
    image, text = torch.randn(3, 4, 5), torch.randn(2, 5)
    ours = max_query_similarity(image, text)
    for i in range(3):
        for j in range(2):
            best = max(F.cosine_similarity(query, text[j], dim=0) for query in image[i])
            assert_close(ours[i, j], best)


def test_cosine_loss():
    x = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    y = torch.tensor([[1.0, 0.0], [0.0, -5.0], [0.0, 1.0]])
    assert cosine_loss(x, y).item() == pytest.approx(1 - (1 - 1 + 0) / 3)
