"""Section 2.2.1: pictures and texts in one space, by a Q-Former over a frozen ViT.

Causal, this is the first half of SEED; bidirectional, it is the BLIP-2 stage-1 model that SEED starts from and is
compared with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, load_model, read_config, write_checkpoint
from seedtok.core.errors import CheckpointError
from seedtok.core.files import read_tensors
from seedtok.core.images import Images
from seedtok.core.kinds import EMBEDDER
from seedtok.core.notices import quietly
from seedtok.core.records import encodable, from_record
from seedtok.tokenizer.causal_qformer import QFormer, QFormerConfig
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer, clip_tensors, normalized_pixels

if TYPE_CHECKING:
    from transformers import BertTokenizer

VERSION = 1
TEXT_TOKENIZER = "text_tokenizer"  # its folder in that of a checkpoint


@dataclass(frozen=True)
class EmbedderConfig:
    """Sizes; the defaults are the paper's.

    `projection` None leaves out stage I's projections, as in the published tokenizers: no retrieval then. `positions`
    adds a learned vector to the features of each patch, for a ViT whose own say little of where they are.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    projection: int | None = 256
    max_text_tokens: int = 32
    positions: bool = False

    @classmethod
    def from_dict(cls, record: Any) -> EmbedderConfig:
        """The inverse of `dataclasses.asdict`; raises CheckpointError for fields that are missing, unknown or odd."""
        for name in ("vision", "qformer", "projection", "max_text_tokens"):
            if isinstance(record, dict) and name not in record:
                raise CheckpointError(f"not a configuration of an embedder: {name} is missing")
        return from_record(cls, record, "an embedder")


class ImageTextEmbedder(nn.Module):
    """Frozen ViT, LayerNorm, Q-Former with its text branch, and the projections of the contrastive loss.

    `temperature` is what cosines were divided by in that loss; stage I learns its logarithm and leaves the value here.
    `text_tokenizer` may be the folder of one: it is then loaded when the first text comes, since that takes as long as
    all else.
    """

    temperature: Tensor  # ()

    def __init__(self, config: EmbedderConfig, text_tokenizer: BertTokenizer | Path | None = None):
        super().__init__()
        self.config = config
        self._text_tokenizer = text_tokenizer
        self.vision = VisionTransformer(config.vision)
        self.ln_vision = nn.LayerNorm(config.vision.width, eps=1e-5)
        self.patch_positions: nn.Parameter | None = None
        if config.positions:
            self.patch_positions = nn.Parameter(torch.empty(1 + config.vision.patches, config.vision.width))
            nn.init.normal_(self.patch_positions)
        self.qformer = QFormer(config.qformer)
        if config.projection is not None:
            self.vision_projection = nn.Linear(config.qformer.width, config.projection)
            self.text_projection = nn.Linear(config.qformer.width, config.projection)
            self.register_buffer("temperature", torch.tensor(0.07))

    @property
    def text_tokenizer(self) -> BertTokenizer | None:
        """What texts are cut into tokens by; None without a text branch. Raises CheckpointError when it is broken."""
        if isinstance(self._text_tokenizer, Path):
            from transformers import BertTokenizer

            try:
                with quietly("transformers"):
                    self._text_tokenizer = BertTokenizer.from_pretrained(str(self._text_tokenizer))
            except Exception as error:  # of a broken file the tokenizers library raises plain Exception
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise CheckpointError(f"{self._text_tokenizer} is not a text tokenizer: {reason}") from None
        return self._text_tokenizer

    def pixels(self, images: Images) -> Float[Tensor, "b 3 h w"]:
        """Images, as `normalized_pixels` takes them -> pixels of the ViT's size, where and as this model computes."""
        weight = self.ln_vision.weight
        return normalized_pixels(images, self.config.vision.image_size, weight.dtype, weight.device)

    def patch_features(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p e"]:
        """Normalised pixels -> what the Q-Former attends to; the LayerNorm runs in float32."""
        features = self.vision(pixels)
        normed = F.layer_norm(
            features.float(), features.shape[-1:], self.ln_vision.weight.float(), self.ln_vision.bias.float(),
            self.ln_vision.eps,
        )  # fmt: skip
        if self.patch_positions is not None:
            normed = normed + self.patch_positions
        return normed.to(features.dtype)

    def project_queries(self, embeddings: Float[Tensor, "b q d"]) -> Tensor:
        """Unit-length image embeddings: the final query's (b, projection) when causal, else all (b, q, projection).

        Raises CheckpointError where there are no projections.
        """
        if self.config.projection is None:
            raise CheckpointError("this checkpoint has no projections of stage I, so it embeds nothing for retrieval")
        chosen = embeddings[:, -1] if self.config.qformer.causal else embeddings
        return F.normalize(self.vision_projection(chosen).float(), dim=-1)

    def embed_texts(self, texts: list[str]) -> Float[Tensor, "b p"]:
        """Text embeddings of unit length, off the [CLS] token; texts are cut at `max_text_tokens`."""
        if self.text_tokenizer is None or self.config.projection is None:
            raise CheckpointError("this checkpoint has no text branch, so it cannot embed texts")
        if not texts:
            return self.text_projection.weight.new_zeros(0, self.config.projection).float()
        tokens = self.text_tokenizer(
            [encodable(text) for text in texts],
            padding=True,
            truncation=True,
            max_length=self.config.max_text_tokens,
            return_tensors="pt",
        ).to(self.text_projection.weight.device)
        states = self.qformer.encode_text(tokens.input_ids, tokens.attention_mask)
        return F.normalize(self.text_projection(states[:, 0]).float(), dim=-1)

    def similarity(self, images: Tensor, texts: Float[Tensor, "t p"]) -> Float[Tensor, "i t"]:
        """Cosines of `project_queries` and `embed_texts` outputs: of the final query, or the maximum over queries."""
        if images.ndim == 2:
            return images @ texts.T
        return torch.einsum("iqp,tp->itq", images, texts).amax(-1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json, model.safetensors and the text tokenizer."""
        with checkpoint_folder(Path(folder)) as new:
            write_checkpoint(new, EMBEDDER, VERSION, asdict(self.config), self.state_dict())
            self.save_text_tokenizer(new)

    def save_text_tokenizer(self, folder: Path) -> None:
        """Writes the text tokenizer, if there is one, into its place in the folder of a checkpoint."""
        if self.text_tokenizer is not None:
            self.text_tokenizer.save_pretrained(str(folder / TEXT_TOKENIZER))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageTextEmbedder:
        """Reads what `save_pretrained` wrote; raises CheckpointError for anything else."""
        folder = Path(folder)
        config = read_config(folder, EMBEDDER, VERSION)
        vision = shared_vision(folder, config, "vision.")
        return load_model(
            lambda: cls(EmbedderConfig.from_dict(config), stored_text_tokenizer(folder)), config, folder / WEIGHTS,
            others=vision,
        )  # fmt: skip


def stored_text_tokenizer(folder: Path) -> Path | None:
    """The text tokenizer's place in the folder of a checkpoint; None where the checkpoint has none."""
    path = folder / TEXT_TOKENIZER
    return path if (path / "tokenizer_config.json").is_file() else None


def shared_vision(folder: Path, record: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """The ViT's tensors of a checkpoint that leaves them to a CLIP beside it, named by "vision_from" in its record.

    Takes "vision_from" out of `record`; without one there is nothing to add. Raises CheckpointError when that CLIP is
    missing.
    """
    source = record.pop("vision_from", None)
    if source is None:
        return {}
    if not isinstance(source, str) or not (folder / source).is_dir():
        raise CheckpointError(f"{folder} takes its ViT from {source}, which is missing")
    found = read_tensors(folder / source / "model.safetensors")
    try:
        ours = clip_tensors({name: tensor for name, tensor in found.items() if name.startswith("vision_model.")})
    except ValueError as error:
        raise CheckpointError(f"{folder / source}: {error}") from None
    return {prefix + name: tensor.float() for name, tensor in ours.items()}
