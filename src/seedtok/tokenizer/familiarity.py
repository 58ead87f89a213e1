"""Out-of-distribution detection: the distance of an image from those that a tokenizer was trained on.

The pooled patch features of training images are near a subspace, spanned by their principal components. The distance of
an image is its squared residual outside the subspace, divided by a threshold that held-out images set. It takes one
small matrix product for each image, on features that the ViT has computed. `tools/familiarity.py` fits the shipped one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from seedtok.core.atomic import atomic_file
from seedtok.core.cores import reading_threads
from seedtok.core.device import FixedDtypeModule, inference
from seedtok.core.errors import CheckpointError
from seedtok.core.files import read_tensors, write_tensors
from seedtok.core.images import Square
from seedtok.core.notices import warn
from seedtok.core.products import fast_products

FILE = "familiarity.safetensors"
NAMED = 3  # images that a warning names


class Familiarity(FixedDtypeModule):
    """Distance of pooled features from the affine subspace of training images, given by `mean` and `basis`.

    Its tensors are in a separate file of the checkpoint, which may be absent. They are not cast with the tokenizer.
    """

    mean: Tensor  # (f,)
    basis: Tensor  # (f, k), orthonormal columns
    threshold: Tensor  # (), the squared residual above which an image is far

    def __init__(self, mean: Float[Tensor, " f"], basis: Float[Tensor, "f k"], threshold: Float[Tensor, ""]):
        super().__init__()
        for name, value in (("mean", mean), ("basis", basis), ("threshold", threshold)):
            self.register_buffer(name, value, persistent=False)

    @staticmethod
    def pooled(features: Float[Tensor, "b p e"]) -> Float[Tensor, "b f"]:
        """Patch features, class token first -> mean and standard deviation over patches, in float32; f = 2 e."""
        features = features.float()
        return torch.cat([features.mean(1), features[:, 1:].std(1)], dim=1)

    def forward(self, features: Float[Tensor, "b p e"]) -> Float[Tensor, " b"]:
        """Features of `ImageTextEmbedder.patch_features` -> distances; an image is far above 1."""
        return self.squared(self.pooled(features)) / self.threshold.float()

    def squared(self, pooled: Float[Tensor, "b f"]) -> Float[Tensor, " b"]:
        """Pooled features -> squared residuals outside the subspace."""
        centred = pooled - self.mean.float()
        return centred.square().sum(1) - (centred @ self.basis.float()).square().sum(1)

    @classmethod
    @torch.no_grad()
    def fit(
        cls, training: Float[Tensor, "n f"], held_out: Float[Tensor, "m f"], components: int, quantile: float = 0.995
    ) -> Familiarity:
        """Fits the subspace to `pooled` features of training images; `1 - quantile` of the held-out ones are far."""
        mean = training.mean(0)
        _, vectors = torch.linalg.eigh(torch.cov((training - mean).T.double()))  # in ascending order
        basis = vectors[:, -components:].flip(1).half()
        found = cls(mean, basis, torch.ones(()))
        found.threshold.copy_(found.squared(held_out).quantile(quantile))
        return found

    @torch.no_grad()
    def widen(self, held_out: Float[Tensor, "m f"], quantile: float = 0.995) -> None:
        """Raises the threshold, where needed, so that at most `1 - quantile` of these `pooled` features are far."""
        self.threshold.copy_(torch.maximum(self.threshold, self.squared(held_out).quantile(quantile)))

    def save(self, folder: Path) -> None:
        """Writes its file into the folder of a checkpoint, whole or not at all."""
        with atomic_file(folder / FILE) as temporary:
            write_tensors(temporary, dict(self.named_buffers()))

    @classmethod
    def load(cls, folder: Path, width: int) -> Familiarity | None:
        """Reads its file from the folder of a checkpoint; None where there is none.

        `width` is that of the ViT. Raises CheckpointError for a file that does not match it.
        """
        if not (folder / FILE).exists():
            return None
        tensors = read_tensors(folder / FILE)
        basis = tensors.get("basis", torch.zeros(0))
        shapes = {"mean": (2 * width,), "basis": (2 * width, basis.shape[-1]), "threshold": ()}
        if {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
            raise CheckpointError(f"{folder / FILE} does not match this tokenizer, whose ViT has a width of {width}")
        if not all(value.is_floating_point() and bool(value.isfinite().all()) for value in tensors.values()):
            raise CheckpointError(f"{folder / FILE} has values that are not finite numbers")
        return cls(**tensors)


@inference
def pooled_features(tokenizer: Any, images: Iterable[Any], batch_size: int = 64) -> Float[Tensor, "b f"]:
    """The features of images that a `Familiarity` is fitted to, computed `batch_size` images at a time."""
    stream, parts = iter(images), []
    while batch := list(islice(stream, batch_size)):
        parts.append(Familiarity.pooled(tokenizer.embedder.patch_features(tokenizer.pixels(batch))))
    return torch.cat(parts)


@inference
def encode_and_check(tokenizer: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, " b"]]:
    """The codes of `SeedTokenizer.encode_pixels`, and which images are far from those of training, in one pass.

    Without a `Familiarity`, no image is far.
    """
    with fast_products(tokenizer.device):
        features = tokenizer.embedder.patch_features(pixels)
        codes = tokenizer.codes_of(tokenizer.embedder.qformer(features))
    if tokenizer.familiarity is None:
        return codes, torch.zeros(len(pixels), dtype=torch.bool, device="cpu")
    return codes, (tokenizer.familiarity(features) > 1).cpu()


class CheckedEncoder:
    """Images -> codes (B, 32), as an array, with a count `far` of the images far from those of training.

    `fingerprint` is `SeedTokenizer.encoder_fingerprint`, `dtype` its `encoder_dtype`, and `square` stretches images.
    `threads` is how many should read images for it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.codebook_id: str = tokenizer.codebook_id
        self.fingerprint: str = tokenizer.encoder_fingerprint
        self.dtype: str = tokenizer.encoder_dtype
        self.square: Square | None = tokenizer.config.embedder.vision.square
        self.threads = reading_threads(tokenizer.device.type)
        self.far = 0

    def __call__(self, images: list[Image.Image]) -> np.ndarray:
        codes, far = encode_and_check(self.tokenizer, self.tokenizer.pixels(images))
        self.far += int(far.sum())
        return codes.cpu().numpy()


def warn_of_far_images(names: Sequence[str]) -> None:
    """Emits one SeedTokWarning that names the images far from those of training, if there are any."""
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        warn(
            f"far from the images that this model was trained on, so its output for them is unreliable: "
            f"{', '.join(names[:NAMED])}{more}"
        )


def far_names(far: Bool[Tensor, " b"], images: Any, before: int = 0) -> list[str]:
    """Names of the far images of a batch: paths as given, and otherwise numbers from `before` + 1 on."""
    listed = list(images) if isinstance(images, list | tuple) else [images]
    named = {i: str(image) for i, image in enumerate(listed) if isinstance(image, str | Path)}
    return [named.get(i, f"image {before + i + 1}") for i in far.nonzero()[:, 0].tolist()]
