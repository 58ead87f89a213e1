"""What a language model can read of an image: the embeddings of a Q-Former, or the code vectors of an image tokenizer.

One class for each kind, with one interface, so that all of them are read by the same `PrefixLM` and trained by the same
stage: embeddings and codes, codes of pixels and codes of meaning, are compared on equal terms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seedtok.baselines.vqkd import VqkdTokenizer
from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.errors import CheckpointError
from seedtok.core.hub import locate, recorded, resolve
from seedtok.core.kinds import NAMES, TOKENIZER, VQKD, VQVAE, kind_of
from seedtok.core.notices import quietly
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.vision import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from diffusers import VQModel


class ImageVectors(nn.Module, ABC):
    """Pixels (B, 3, side, side), normalised as CLIP's are -> `count` vectors of `width` numbers an image.

    `row` is what a result calls a language model that reads them; `image_size` is the side in pixels.
    """

    row: str
    image_size: int
    count: int
    width: int

    @abstractmethod
    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]: ...

    @abstractmethod
    def norm(self) -> float:
        """About how long a vector is."""

    @abstractmethod
    def record(self, folder: Path, new: Path) -> dict[str, Any]:
        """What the config.json of the checkpoint at `folder`, which is being written at `new`, says of this part."""

    @abstractmethod
    def stored(self) -> dict[str, Tensor]:
        """The tensors that such a checkpoint stores of it."""


class QFormerVectors(ImageVectors):
    """The embeddings of a Q-Former: BLIP-2's where it is bidirectional, SEED's before their quantisation where causal.

    They are continuous, and the Q-Former may be trained with the language model in mind, as BLIP-2's is.
    """

    row = "blip2"

    def __init__(self, embedder: ImageTextEmbedder) -> None:
        super().__init__()
        self.embedder = embedder
        self.image_size = embedder.config.vision.image_size
        self.count, self.width = embedder.config.qformer.queries, embedder.config.qformer.width

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.embedder.qformer(self.embedder.patch_features(pixels))

    def norm(self) -> float:
        return self.width**0.5  # a LayerNorm is the last layer

    def record(self, folder: Path, new: Path) -> dict[str, Any]:
        return {"embedder": asdict(self.embedder.config)}

    def stored(self) -> dict[str, Tensor]:
        return self.state_dict()


class CodeVectors(ImageVectors):
    """The code vectors of a frozen image tokenizer, which a checkpoint names and does not store."""

    source: str  # of the tokenizer, as `hub.locate` returns it
    size: int  # of the codebook

    @abstractmethod
    def codes(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """The codes of images, as many for each."""

    @abstractmethod
    def lookup(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Codes -> their vectors."""

    @torch.no_grad()
    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.lookup(self.codes(pixels))

    def norm(self) -> float:
        every = self.lookup(torch.arange(self.size)[None])
        return float(every.detach().square().sum(-1).mean().sqrt().clamp(min=1e-6))

    def record(self, folder: Path, new: Path) -> dict[str, Any]:
        return {"tokenizer": recorded(self.source, "tokenizer", folder, new)}

    def stored(self) -> dict[str, Tensor]:
        return {}


class SeedCodes(CodeVectors):
    """SEED's codes, 32 an image."""

    row = "seed_codes"

    def __init__(self, tokenizer: SeedTokenizer, source: str) -> None:
        super().__init__()
        self.tokenizer, self.source = tokenizer, source
        config = tokenizer.config
        self.image_size = config.embedder.vision.image_size
        self.count = config.embedder.qformer.queries
        self.size, self.width = config.codebook.size, config.codebook.dim

    def codes(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        return self.tokenizer.encode_pixels(pixels)

    def lookup(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return self.tokenizer.codebook.lookup(codes).to(self.tokenizer.dtype)


class VqkdCodes(CodeVectors):
    """BEiT v2's codes, one a patch."""

    row = "beit2"

    def __init__(self, tokenizer: VqkdTokenizer, source: str) -> None:
        super().__init__()
        self.tokenizer, self.source = tokenizer, source
        vision, codebook = tokenizer.config.vision, tokenizer.config.codebook
        self.image_size, self.count = vision.image_size, vision.patches
        self.size, self.width = codebook.size, codebook.dim

    def codes(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        return self.tokenizer.encode_pixels(pixels)

    def lookup(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return self.tokenizer.codebook.lookup(codes)


class VqvaeCodes(CodeVectors):
    """The codes of a VQ-VAE on pixels, diffusers' `VQModel`: one a place of its latent grid, row by row."""

    row = "vqvae"

    def __init__(self, model: VQModel, source: str) -> None:
        super().__init__()
        self.model, self.source = model, source
        config: Any = model.config
        self.image_size = config.sample_size
        self.size, self.width = config.num_vq_embeddings, config.vq_embed_dim
        self.count = (self.image_size >> (len(config.block_out_channels) - 1)) ** 2

    def codes(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        mean, std = (pixels.new_tensor(x).view(1, 3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
        latents = self.model.encode(2 * (pixels * std + mean) - 1).latents
        _, _, (_, _, indices) = self.model.quantize(latents)
        return indices.view(len(pixels), -1)

    def lookup(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return self.model.quantize.embedding(codes)


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
