"""BLIP-2 in the format of transformers: its ViT and Q-Former, the start of stage I and a baseline of Table 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from seedtok.core.errors import CheckpointError
from seedtok.tokenizer.causal_qformer import QFormerConfig
from seedtok.tokenizer.embedder import EmbedderConfig
from seedtok.tokenizer.vision import VisionConfig
from seedtok.weights.entries import Entry, bert_layer, both, to_ours

PROJECTION = "language_projection."  # the FC layer from the Q-Former to the language model
LEFT_OUT = {  # prefix of the names of unused tensors: the reason
    "itm_head.": "the matching head: retrieval uses the cosine alone",
    "language_model.": "the language model, which is a checkpoint of its own",
    "embeddings.position_ids": "the indices of the positions, which are constant",
    "qformer.embeddings.position_ids": "the indices of the positions, which are constant",
}


def read_blip2(tensors: dict[str, Tensor], record: dict[str, Any]) -> tuple[EmbedderConfig, dict[str, Tensor]]:
    """The tensors and config.json of a BLIP-2 -> the configuration and the state of an `ImageTextEmbedder`.

    A BLIP-2 for retrieval (blip2-itm-vit-g) has a text branch and projections, one for a language model
    (blip2-opt-2.7b) has neither. The FC layer to the language model is not in the state; see `read_projection`. Raises
    CheckpointError for a missing tensor, and for one that is neither used nor in `LEFT_OUT`.
    """
    try:
        config = _config(tensors, record)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"not a BLIP-2 of transformers: {error} is missing or invalid") from None
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(PROJECTION)}
    state = to_ours(_entries(config), others, LEFT_OUT)
    if config.projection is not None:
        state["temperature"] = tensors["query_tokens"].new_tensor(0.07)  # as at the start: it is not stored
    return config, state


def read_projection(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight (LM width, Q-Former width) and bias of the FC layer to the language model; empty where there is none."""
    return {name.removeprefix(PROJECTION): t for name, t in tensors.items() if name.startswith(PROJECTION)}


def _config(tensors: dict[str, Tensor], record: dict[str, Any]) -> EmbedderConfig:
    """Sizes from the shapes of the tensors, and from config.json what shapes do not tell."""
    vision_record, qformer_record = record["vision_config"], record["qformer_config"]
    patch = tensors["vision_model.embeddings.patch_embedding.weight"]
    side = round((tensors["vision_model.embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    vision = VisionConfig(
        image_size=side * patch.shape[-1], patch_size=patch.shape[-1], width=patch.shape[0],
        layers=vision_record.get("num_hidden_layers", 39), heads=vision_record.get("num_attention_heads", 16),
        mlp_width=tensors["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        layer_norm_eps=vision_record.get("layer_norm_eps", 1e-6), activation=vision_record.get("hidden_act", "gelu"),
    )  # fmt: skip
    words = tensors.get("embeddings.word_embeddings.weight")
    positions = tensors.get("embeddings.position_embeddings.weight")
    projection = tensors.get("vision_projection.weight")
    _, queries, width = tensors["query_tokens"].shape
    qformer = QFormerConfig(
        queries=queries, width=width, layers=qformer_record.get("num_hidden_layers", 12),
        heads=qformer_record.get("num_attention_heads", 12),
        cross_attention_every=qformer_record.get("cross_attention_frequency", 2),
        mlp_width=tensors["qformer.encoder.layer.0.intermediate_query.dense.weight"].shape[0],
        encoder_width=vision.width, vocab_size=None if words is None else words.shape[0],
        max_text_positions=512 if positions is None else positions.shape[0],
        layer_norm_eps=qformer_record.get("layer_norm_eps", 1e-12), causal=False,
    )  # fmt: skip
    return EmbedderConfig(vision, qformer, None if projection is None else projection.shape[0])


def _entries(config: EmbedderConfig) -> Iterator[Entry]:
    yield Entry("vision.class_token", ("vision_model.embeddings.class_embedding",))
    yield Entry("vision.positions", ("vision_model.embeddings.position_embedding",))
    yield Entry("vision.patch_embedding.weight", ("vision_model.embeddings.patch_embedding.weight",), "patches")
    yield Entry("vision.patch_embedding.bias", ("vision_model.embeddings.patch_embedding.bias",))
    for i in range(config.vision.layers):
        block, layer = f"vision.blocks.{i}", f"vision_model.encoder.layers.{i}"
        for ours, theirs in (
            ("attention_norm", "layer_norm1"), ("attention.qkv", "self_attn.qkv"),
            ("attention.out", "self_attn.projection"), ("mlp_norm", "layer_norm2"), ("mlp.up", "mlp.fc1"),
            ("mlp.down", "mlp.fc2"),
        ):  # fmt: skip
            yield from both(f"{block}.{ours}", f"{layer}.{theirs}")
    yield from both("ln_vision", "vision_model.post_layernorm")
    yield from _qformer(config.qformer)
    if config.projection is not None:
        yield from both("vision_projection", "vision_projection")
        yield from both("text_projection", "text_projection")


def _qformer(config: QFormerConfig) -> Iterator[Entry]:
    yield Entry("qformer.query_tokens", ("query_tokens",))
    yield from both("qformer.embedding_norm", "qformer.layernorm")
    kinds = [("query", "_query")]
    if config.vocab_size is not None:
        kinds.append(("text", ""))
        for name in ("word_embeddings.weight", "position_embeddings.weight"):
            yield Entry(f"qformer.{name}", (f"embeddings.{name}",))
    for i in range(config.layers):
        cross = i % config.cross_attention_every == 0
        yield from bert_layer(f"qformer.layers.{i}", f"qformer.encoder.layer.{i}", "attention", cross, kinds)
