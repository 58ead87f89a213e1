"""What a language model can read of an image: the embeddings of a Q-Former, or the code vectors of an image tokenizer.

One class for each kind, with one interface, so that all of them are read by the same `PrefixLM` and trained by the same
stage: embeddings and codes, codes of pixels and codes of meaning, are compared on equal terms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.baselines.vqkd import VqkdTokenizer
from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.errors import CheckpointError
from seedtok.core.hub import locate, recorded, resolve
from seedtok.core.images import Square
from seedtok.core.kinds import NAMES, TOKENIZER, VQKD, VQVAE, kind_of
from seedtok.core.notices import quietly
from seedtok.tokenizer.codebook import mean_and_scale
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.vision import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from diffusers import VQModel


class ImageVectors(nn.Module, ABC):
    """Pixels (B, 3, side, side), normalised as CLIP's are -> `count` vectors of `width` numbers an image.

    `row` is what a result calls a language model that reads them; `square` stretches images.
    """

    row: str
    square: Square
    count: int
    width: int
    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return (self.vectors(pixels) - self.mean) / self.scale

    @abstractmethod
    def vectors(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """The vectors before they are standardised."""

    @torch.no_grad()
    def standardize(self, sample: Float[Tensor, "size d"]) -> None:
        """Makes `forward` subtract the mean of this sample, and divide by the deviation over all of its dimensions.

        Embeddings and codes differ in scale, and in the mean that all of them share; at one learning rate a layer would
        learn to read some faster than others. A checkpoint has the layer as `folded` gives it.
        """
        mean, scale = mean_and_scale(sample.float())
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @abstractmethod
    def norm(self) -> float:
        """About how long a vector is."""

    @abstractmethod
    def record(self, folder: Path, new: Path) -> dict[str, Any]:
        """What the config.json of the checkpoint at `folder`, which is being written at `new`, says of this part."""

    @abstractmethod
    def stored(self) -> dict[str, Tensor]:
        """The tensors that such a checkpoint stores of it."""

    @torch.no_grad()
    def folded(self, layer: nn.Linear) -> dict[str, Tensor]:
        """The weight and bias with which a linear layer gives the same of vectors that are not standardised."""
        weight = layer.weight / self.scale
        return {"weight": weight, "bias": layer.bias - weight @ self.mean.to(weight.dtype)}


class QFormerVectors(ImageVectors):
    """The embeddings of a Q-Former: BLIP-2's where it is bidirectional, SEED's before their quantisation where causal.

    They are continuous, and the Q-Former may be trained with the language model in mind, as BLIP-2's is.
    """

    row = "blip2"

    def __init__(self, embedder: ImageTextEmbedder) -> None:
        super().__init__(embedder.config.qformer.width)
        self.embedder = embedder
        self.square = embedder.config.vision.square
        self.count = embedder.config.qformer.queries

    def vectors(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.embedder.qformer(self.embedder.patch_features(pixels))

    def norm(self) -> float:
        return self.width**0.5  # a LayerNorm is the last layer

    def record(self, folder: Path, new: Path) -> dict[str, Any]:
        return {"embedder": asdict(self.embedder.config)}

    def stored(self) -> dict[str, Tensor]:
        return {f"embedder.{name}": tensor for name, tensor in self.embedder.state_dict().items()}


class CodeVectors(ImageVectors):
    """The code vectors of a frozen image tokenizer, which a checkpoint names and does not store."""

    source: str  # of the tokenizer, as `hub.locate` returns it

    @abstractmethod
    def table(self) -> Float[Tensor, "size d"]:
        """The vectors of all codes."""

    def norm(self) -> float:
        vectors = (self.table().detach() - self.mean) / self.scale
        return float(vectors.square().sum(-1).mean().sqrt().clamp(min=1e-6))

    def record(self, folder: Path, new: Path) -> dict[str, Any]:
        return {"tokenizer": recorded(self.source, "tokenizer", folder, new)}

    def stored(self) -> dict[str, Tensor]:
        return {}


class SeedCodes(CodeVectors):
    """SEED's codes, 32 an image."""

    row = "seed_codes"

    def __init__(self, tokenizer: SeedTokenizer, source: str) -> None:
        config = tokenizer.config
        super().__init__(config.codebook.dim)
        self.tokenizer, self.source = tokenizer, source
        self.square, self.count = config.embedder.vision.square, config.embedder.qformer.queries

    @torch.no_grad()
    def vectors(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        tokenizer = self.tokenizer
        return tokenizer.quantize(tokenizer.causal_embeddings(pixels)).vectors

    def table(self) -> Float[Tensor, "size d"]:
        return self.tokenizer.codebook.table()


class VqkdCodes(CodeVectors):
    """BEiT v2's codes, one a patch."""

    row = "beit2"

    def __init__(self, tokenizer: VqkdTokenizer, source: str) -> None:
        super().__init__(tokenizer.config.codebook.dim)
        self.tokenizer, self.source = tokenizer, source
        vision = tokenizer.config.vision
        self.square, self.count = vision.square, vision.patches

    @torch.no_grad()
    def vectors(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.tokenizer.codebook(self.tokenizer.encoder_outputs(pixels)).vectors

    def table(self) -> Float[Tensor, "size d"]:
        return self.tokenizer.codebook.table()


class VqvaeCodes(CodeVectors):
    """The codes of a VQ-VAE on pixels, diffusers' `VQModel`: one a place of its latent grid, row by row.

    Where it has more than three channels, they are the pixels of square patches (`F.pixel_unshuffle`).
    """

    row = "vqvae"

    def __init__(self, model: VQModel, source: str) -> None:
        config: Any = model.config
        super().__init__(config.vq_embed_dim)
        self.model, self.source = model, source
        self.patch_size = isqrt(config.in_channels // 3)
        if config.in_channels != 3 * self.patch_size**2:
            channels = config.in_channels
            raise CheckpointError(
                f"{source} is a VQ-VAE of {channels} channels, not of pixels or square patches of them"
            )
        self.square = Square(config.sample_size * self.patch_size)
        self.count = (config.sample_size >> (len(config.block_out_channels) - 1)) ** 2

    @torch.no_grad()
    def vectors(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        mean, std = (pixels.new_tensor(x).view(1, 3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
        patches = F.pixel_unshuffle(2 * (pixels * std + mean) - 1, self.patch_size)
        latents = self.model.encode(patches).latents  # type: ignore[union-attr]
        return self.model.quantize(latents)[0].flatten(2).transpose(1, 2)

    def table(self) -> Float[Tensor, "size d"]:
        return self.model.quantize.embedding.weight


def load_codes(name: str | Path, beside: Path | None = None) -> CodeVectors:
    """An image tokenizer by its folder, relative to `beside`, or "mini": SEED's, a VQ-VAE's or BEiT v2's.

    Raises CheckpointError for any other kind of checkpoint.
    """
    source = locate(name, "tokenizer", beside)
    folder = resolve(source, "tokenizer")
    kind = kind_of(folder)
    loaders: dict[str, Callable[[], CodeVectors]] = {
        TOKENIZER: lambda: SeedCodes(SeedTokenizer.from_pretrained(source), source),
        VQVAE: lambda: VqvaeCodes(load_vqvae(folder), source),
        VQKD: lambda: VqkdCodes(VqkdTokenizer.from_pretrained(folder), source),
    }
    if kind is None or kind.format not in loaders:
        found = "no checkpoint that is known" if kind is None else kind.name
        raise CheckpointError(f"{folder} is {found}; expected {', '.join(NAMES[known] for known in loaders)}")
    return loaders[kind.format]()


@quietly("diffusers")
def load_vqvae(folder: Path) -> VQModel:
    """A VQ-VAE of diffusers from its folder; raises CheckpointError where it cannot be loaded."""
    from diffusers import VQModel

    try:
        return VQModel.from_pretrained(str(folder), torch_dtype=torch.float32).eval()  # type: ignore[return-value]
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"cannot load a VQ-VAE from {folder}: {str(error).splitlines()[0]}") from None


def save_vqvae(model: VQModel, folder: Path) -> None:
    """Writes a VQ-VAE as diffusers stores it."""
    with checkpoint_folder(folder) as new:
        model.save_pretrained(str(new))
