"""The configuration of a SEED tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seedtok.core.errors import ConfigError
from seedtok.core.records import from_record
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig
from seedtok.tokenizer.embedder import EmbedderConfig
from seedtok.tokenizer.image_head import ImageHeadConfig
from seedtok.tokenizer.reverse_qformer import ReverseQFormerConfig


@dataclass(frozen=True)
class SeedConfig:
    """Sizes of the parts of a `SeedTokenizer`; the defaults are the paper's.

    Attributes:
        code_decoder: None in the published checkpoints, which then cannot be used for retrieval by codes.
        text_decoder: the decoder before the Reverse Q-Former; None gives it the sizes of the code decoder.
        reverse_qformer: makes generation embeddings; None where there is an `image_head`.
        image_head: makes the image embeddings of the successor's image decoder instead.
        image_decoder: "mini", a hub id, or a folder relative to the checkpoint.
        num_inference_steps: denoising steps of the image decoder.
        guidance_scale: weight of classifier-free guidance in the image decoder.
        code_order: which causal code comes first, second, ... in the codes that are given out; None leaves them as they
            are, as the paper does. Ours, to measure what their order is worth to a language model.
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
    code_order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        queries = self.embedder.qformer.queries
        if self.code_order is not None and sorted(self.code_order) != list(range(queries)):
            raise ConfigError(f"code_order is {self.code_order}; expected each of 0..{queries - 1} once, or none")

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> SeedConfig:
        """The inverse of `dataclasses.asdict`; raises CheckpointError for missing, unknown or invalid fields."""
        EmbedderConfig.from_dict(record.get("embedder"))
        return from_record(cls, record, "a SEED tokenizer")
