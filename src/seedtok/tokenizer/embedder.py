"""The image-text embedder of stage I (section 2.2.1): a Q-Former over a frozen ViT, trained by contrastive learning.

With a causal Q-Former it is the first half of the SEED tokenizer. With a bidirectional one it is the model of BLIP-2's
first stage, from which SEED is initialised and with which it is compared.
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
from seedtok.core.kinds import EMBEDDER, VISION, kind_of
from seedtok.core.notices import quietly
from seedtok.core.records import encodable, from_record
from seedtok.tokenizer.causal_qformer import QFormer, QFormerConfig
from seedtok.tokenizer.layers import Block, QFormerLayer
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer, clip_tensors, normalized_pixels

if TYPE_CHECKING:
    from transformers import BertTokenizer

VERSION = 1
TEXT_TOKENIZER = "text_tokenizer"  # its folder in that of a checkpoint


@dataclass(frozen=True)
class EmbedderConfig:
    """Sizes of an `ImageTextEmbedder`; the defaults are the paper's.

    `projection` None omits the projections of stage I, as in the published tokenizers, which then cannot be used for
    retrieval. `positions` adds a learned vector to the features of each patch, for a ViT whose features contain little
    information on the position.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    projection: int | None = 256
    max_text_tokens: int = 32
    positions: bool = False

    @classmethod
    def from_dict(cls, record: Any) -> EmbedderConfig:
        """The inverse of `dataclasses.asdict`; raises CheckpointError for missing, unknown or invalid fields."""
        for name in ("vision", "qformer", "projection", "max_text_tokens"):
            if isinstance(record, dict) and name not in record:
                raise CheckpointError(f"not a configuration of an embedder: {name} is missing")
        return from_record(cls, record, "an embedder")


class ImageTextEmbedder(nn.Module):
    """A frozen ViT, a LayerNorm, a Q-Former with a text branch, and the projections of the contrastive loss.

    `temperature` is the divisor of the cosines in that loss, learned in stage I. `text_tokenizer` may be given as a
    folder; it is then loaded on first use, because that takes as long as loading everything else.
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
        """The tokenizer of the text branch, None without one; raises CheckpointError where it cannot be loaded."""
        if isinstance(self._text_tokenizer, Path):
            from transformers import BertTokenizer

            try:
                with quietly("transformers"):
                    self._text_tokenizer = BertTokenizer.from_pretrained(str(self._text_tokenizer))
            except Exception as error:  # the tokenizers library raises plain Exception for a broken file
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise CheckpointError(f"{self._text_tokenizer} is not a text tokenizer: {reason}") from None
        return self._text_tokenizer

    @property
    def has_text_branch(self) -> bool:
        """Whether texts can be embedded, in one space with images."""
        return self.config.projection is not None and self._text_tokenizer is not None

    def pixels(self, images: Images) -> Float[Tensor, "b 3 h w"]:
        """Images, as for `normalized_pixels` -> normalised pixels, in the size, dtype and device of this model."""
        weight = self.ln_vision.weight
        return normalized_pixels(images, self.config.vision.square, weight.dtype, weight.device)

    def patch_features(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p e"]:
        """Normalised pixels -> the patch features that the Q-Former attends to; the LayerNorm is in float32."""
        features = self.vision(pixels)
        normed = F.layer_norm(
            features.float(), features.shape[-1:], self.ln_vision.weight.float(), self.ln_vision.bias.float(),
            self.ln_vision.eps,
        )  # fmt: skip
        if self.patch_positions is not None:
            normed = normed + self.patch_positions
        return normed.to(features.dtype)

    def narrow_products(self, dtype: torch.dtype) -> None:
        """Casts the linear layers of the ViT's blocks, and those of its features in the cross-attention, to `dtype`.

        Nearly all operations are theirs. Most codes that change in bfloat16 change by what stays as it is: the residual
        stream of the ViT, the queries of the Q-Former, and the head before the codebook.
        """
        for block in self.vision.blocks:
            assert isinstance(block, Block)
            block.attention.to(dtype)
            block.mlp.to(dtype)
        for layer in self.qformer.layers:
            assert isinstance(layer, QFormerLayer)
            if layer.cross is not None:
                layer.cross.kv.to(dtype)

    def project_queries(self, embeddings: Float[Tensor, "b q d"]) -> Tensor:
        """Causal embeddings -> image embeddings of unit length for retrieval.

        That of the final query (b, projection) with a causal Q-Former, and else those of all queries (b, q,
        projection). Raises CheckpointError where there are no projections.
        """
        if self.config.projection is None:
            raise CheckpointError("this checkpoint has no projections of stage I, so it cannot be used for retrieval")
        chosen = embeddings[:, -1] if self.config.qformer.causal else embeddings
        return F.normalize(self.vision_projection(chosen).float(), dim=-1)

    def embed_texts(self, texts: list[str]) -> Float[Tensor, "b p"]:
        """Text embeddings of unit length, from the [CLS] token; texts are truncated to `max_text_tokens`.

        Raises CheckpointError where there is no text branch.
        """
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
        """Cosines of image embeddings (of `project_queries`) and text embeddings; the maximum over several queries."""
        if images.ndim == 2:
            return images @ texts.T
        return torch.einsum("iqp,tp->itq", images, texts).amax(-1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json, model.safetensors and the text tokenizer."""
        with checkpoint_folder(Path(folder)) as new:
            write_checkpoint(new, EMBEDDER, VERSION, asdict(self.config), self.state_dict())
            self.save_text_tokenizer(new)

    def save_text_tokenizer(self, folder: Path) -> None:
        """Writes the text tokenizer, if there is one, into the folder of a checkpoint."""
        if self.text_tokenizer is not None:
            self.text_tokenizer.save_pretrained(str(folder / TEXT_TOKENIZER))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageTextEmbedder:
        """Loads a checkpoint that `save_pretrained` wrote; raises CheckpointError for anything else."""
        folder = Path(folder)
        config = read_config(folder, EMBEDDER, VERSION)
        vision = shared_vision(folder, config, "vision.")
        return load_model(
            lambda: cls(EmbedderConfig.from_dict(config), stored_text_tokenizer(folder)), config, folder / WEIGHTS,
            others=vision,
        )  # fmt: skip


def stored_text_tokenizer(folder: Path) -> Path | None:
    """The folder of the text tokenizer in that of a checkpoint; None where the checkpoint has none."""
    path = folder / TEXT_TOKENIZER
    return path if (path / "tokenizer_config.json").is_file() else None


def shared_vision(folder: Path, record: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """The tensors of the ViT of a checkpoint that does not store them, but names an image encoder or a CLIP with it.

    Args:
        folder: that of the checkpoint.
        record: its configuration, from which "vision_from", the relative path of the other checkpoint, is removed.
        prefix: added to the names of the tensors.

    Returns:
        The tensors; empty where there is no "vision_from".

    Raises:
        CheckpointError: the other checkpoint is missing or broken.
    """
    source = record.pop("vision_from", None)
    if source is None:
        return {}
    if not isinstance(source, str) or not (folder / source).is_dir():
        raise CheckpointError(f"{folder} takes its ViT from {source}, which is missing")
    found = read_tensors(folder / source / "model.safetensors")
    if (kind := kind_of(folder / source)) is not None and kind.format == VISION:
        return {prefix + name: t.float() if t.is_floating_point() else t for name, t in found.items()}
    try:
        vision = clip_tensors({name: tensor for name, tensor in found.items() if name.startswith("vision_model.")})
    except ValueError as error:
        raise CheckpointError(f"{folder / source}: {error}") from None
    return {prefix + name: tensor.float() for name, tensor in vision.items()}
