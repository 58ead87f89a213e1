"""How far a picture is from those a tokenizer was trained on, off the features that its ViT gives anyway.

Pictures of training lie near a subspace of pooled patch features: the distance is what a picture has outside of it (a
residual of principal components), as a multiple of a threshold measured on held-out pictures. It costs one small matrix
product a picture. `tools/familiarity.py` measures the one that is shipped.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from seedtok.core.errors import CheckpointError, SeedTokWarning
from seedtok.core.files import read_tensors

FILE = "familiarity.safetensors"
NAMED = 3  # pictures that a warning names


class Familiarity(nn.Module):
    """Distances from training pictures: of pooled features to the subspace around their mean that `basis` spans.

    Its tensors are a file of their own beside the checkpoint, which is complete without it.
    """

    mean: Tensor  # (f,)
    basis: Tensor  # (f, k), orthonormal columns
    threshold: Tensor  # (), the squared distance that counts as far

    def __init__(self, mean: Float[Tensor, " f"], basis: Float[Tensor, "f k"], threshold: Float[Tensor, ""]):
        super().__init__()
        for name, value in (("mean", mean), ("basis", basis), ("threshold", threshold)):
            self.register_buffer(name, value, persistent=False)

    @staticmethod
    def pooled(features: Float[Tensor, "b p e"]) -> Float[Tensor, "b f"]:
        """Patch features, [class] first -> their mean, and the spread of the patches, in float32; f = 2 e."""
        features = features.float()
        return torch.cat([features.mean(1), features[:, 1:].std(1)], dim=1)

    def forward(self, features: Float[Tensor, "b p e"]) -> Float[Tensor, " b"]:
        """Patch features as `ImageTextEmbedder.patch_features` gives them -> distances; above 1 is far."""
        return self.squared(self.pooled(features)) / self.threshold.float()

    def squared(self, pooled: Float[Tensor, "b f"]) -> Float[Tensor, " b"]:
        """Squared distances to the subspace."""
        about = pooled - self.mean.float()
        return about.square().sum(1) - (about @ self.basis.float()).square().sum(1)

    @classmethod
    @torch.no_grad()
    def fit(
        cls, training: Float[Tensor, "n f"], held_out: Float[Tensor, "m f"], components: int, quantile: float = 0.995
    ) -> Familiarity:
        """From `pooled` features of training pictures, and of held-out ones of which `1 - quantile` count as far."""
        mean = training.mean(0)
        _, vectors = torch.linalg.eigh(torch.cov((training - mean).T.double()))  # in ascending order
        basis = vectors[:, -components:].flip(1).half()
        found = cls(mean, basis, torch.ones(()))
        found.threshold.copy_(found.squared(held_out).quantile(quantile))
        return found

    def save(self, folder: Path) -> None:
        """Writes its file into a checkpoint's folder."""
        save_file({name: value.contiguous().cpu() for name, value in self.named_buffers()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, width: int) -> Familiarity | None:
        """What a checkpoint's folder keeps of it, if anything; raises CheckpointError for a file that does not fit.

        `width` is the ViT's.
        """
        if not (folder / FILE).exists():
            return None
        tensors = read_tensors(folder / FILE)
        basis = tensors.get("basis", torch.zeros(0))
        shapes = {"mean": (2 * width,), "basis": (2 * width, basis.shape[-1]), "threshold": ()}
        if {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
            raise CheckpointError(f"{folder / FILE} does not fit this tokenizer, whose features are {width} wide")
        if not all(value.is_floating_point() and bool(value.isfinite().all()) for value in tensors.values()):
            raise CheckpointError(f"{folder / FILE} has values that are no finite numbers")
        return cls(**tensors)


@torch.no_grad()
def encode_and_check(tokenizer: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, " b"]]:
    """As `SeedTokenizer.encode_pixels`, in one pass; and which pictures are far from those of training.

    None is where the checkpoint does not know.
    """
    features = tokenizer.embedder.patch_features(pixels)
    codes = tokenizer.codebook.encode(tokenizer.encode_head(tokenizer.embedder.qformer(features)))
    if tokenizer.familiarity is None:
        return codes, torch.zeros(len(pixels), dtype=torch.bool)
    return codes, (tokenizer.familiarity(features) > 1).cpu()


def warn_of_far_images(names: Sequence[str]) -> None:
    """One SeedTokWarning for all of a call's pictures that are far from those of training, if there are any."""
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        warnings.warn(
            f"far from the pictures this model was trained on, so what it says of them means little: "
            f"{', '.join(names[:NAMED])}{more}",
            SeedTokWarning,
            stacklevel=3,
        )


def far_names(far: Bool[Tensor, " b"], images: Any, before: int = 0) -> list[str]:
    """Names of those of `images` that are far: paths as given, others by their number in a call, `before` them."""
    listed = list(images) if isinstance(images, list | tuple) else [images]
    named = {i: str(image) for i, image in enumerate(listed) if isinstance(image, str | Path)}
    return [named.get(i, f"picture {before + i + 1}") for i in far.nonzero()[:, 0].tolist()]
