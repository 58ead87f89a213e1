"""The sizes of a SEED tokenizer, part by part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seedtok.core.records import from_record
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig
from seedtok.tokenizer.embedder import EmbedderConfig
from seedtok.tokenizer.image_head import ImageHeadConfig
from seedtok.tokenizer.reverse_qformer import ReverseQFormerConfig


@dataclass(frozen=True)
class SeedConfig:
    """Sizes; the defaults are the paper's. `image_decoder` is "mini", a hub id, or a folder relative to the checkpoint.

    Without `code_decoder`, codes cannot be retrieved with, as in the published checkpoints. `text_decoder` None is of
    the code decoder's sizes. Generation embeddings come from a Reverse Q-Former or else from an `image_head`.
    """

    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    code_decoder: CodeDecoderConfig | None = field(default_factory=CodeDecoderConfig)
    text_decoder: CodeDecoderConfig | None = None
    reverse_qformer: ReverseQFormerConfig | None = field(default_factory=ReverseQFormerConfig)
    image_head: ImageHeadConfig | None = None
    image_decoder: str = "CompVis/stable-diffusion-v1-4"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> SeedConfig:
        """The inverse of `dataclasses.asdict`; raises CheckpointError for fields that are missing, unknown or odd."""
        EmbedderConfig.from_dict(record.get("embedder"))
        return from_record(cls, record, "a SEED tokenizer")
