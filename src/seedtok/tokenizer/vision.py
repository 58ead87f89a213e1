"""The frozen ViT encoder: pixels -> patch features (Figure 2, left)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, load_model, read_config, write_checkpoint
from seedtok.core.errors import CheckpointError, ConfigError, InputError
from seedtok.core.image_batches import as_pil
from seedtok.core.images import Images, Interpolation, Square
from seedtok.core.kinds import VISION
from seedtok.core.records import from_record
from seedtok.tokenizer.layers import Activation, Block, ConvolutionalStem, init_weights

if TYPE_CHECKING:
    from transformers import Blip2VisionModel, CLIPVisionModel, PretrainedConfig

VERSION = 1
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a `VisionTransformer`; the defaults are the paper's.

    `pre_norm` adds CLIP's LayerNorm between the embeddings and the first block; `patch_bias` is the bias of the patch
    embedding. `stem` has the widths of a `ConvolutionalStem` before it. `interpolation` stretches images to squares.
    """

    image_size: int = 224
    patch_size: int = 14
    width: int = 1408
    layers: int = 39
    heads: int = 16
    mlp_width: int = 6144
    layer_norm_eps: float = 1e-6
    activation: Activation = "gelu"
    pre_norm: bool = False
    patch_bias: bool = True
    stem: tuple[int, ...] = ()  # ours
    interpolation: Interpolation = "bicubic"

    def __post_init__(self):
        if self.stem and self.patch_size != 1 << len(self.stem):
            raise ConfigError(f"a stem of {len(self.stem)} layers needs patch_size {1 << len(self.stem)}")
        if 0 in self.stem:
            raise ConfigError(f"stem is {self.stem}; expected widths of at least 1")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")

    @property
    def square(self) -> Square:
        """What makes squares of images."""
        return Square(self.image_size, self.interpolation)

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def paper(cls) -> VisionConfig:
        """EVA-CLIP ViT-g/14 as in BLIP-2: 39 of its 40 blocks."""
        return cls()


def normalized_pixels(
    images: Images, square: Square | int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "b 3 h w"]:
    """Images of any kind and size -> pixels (B, 3, side, side) for the ViT.

    Each image is stretched to a square and normalised by CLIP's mean and standard deviation.

    Args:
        images: PIL images, paths, arrays (H, W[, C]) or tensors (3, H, W), of uint8 or of floats in 0..1; one, a list,
            or an array or tensor with a leading batch axis. An empty list gives (0, 3, side, side).
        square: what stretches an image, such as `VisionConfig.square`, or the side in pixels.
        dtype: of the result.
        device: of the result.

    Raises:
        ImageError: something else, or an image that cannot be read.
    """
    square = Square(square) if isinstance(square, int) else square
    side = square.side
    if isinstance(images, list | tuple) and not images:
        return torch.zeros(0, 3, side, side, dtype=dtype, device=device)
    pixels = torch.from_numpy(np.stack([np.asarray(square(image)) for image in as_pil(images)])).to(device)
    mean, std = ((torch.tensor(x, device=device) * 255).repeat(side) for x in (CLIP_MEAN, CLIP_STD))
    rows = pixels.flatten(2).sub(mean).div_(std)  # of 3 * side values: over the 3 channels alone it is not vectorised
    return rows.unflatten(2, (side, 3)).permute(0, 3, 1, 2).to(dtype)


class VisionTransformer(nn.Module):
    """A ViT without a final norm: (B, 3, H, W) -> the output of its last block (B, 1 + patches, width)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.stem = ConvolutionalStem(config.stem) if config.stem else None
        # a linear layer on unfolded patches: on a CPU 20 % faster in bfloat16 than the equivalent strided convolution
        patch = config.stem[-1] if config.stem else 3 * config.patch_size**2
        self.patch_embedding = nn.Linear(patch, config.width, bias=config.patch_bias)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.patches, config.width))
        norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.pre_norm = norm if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width, config.layer_norm_eps, config.activation)
            for _ in range(config.layers)
        )
        self.apply(init_weights)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p d"]:
        """Normalised pixels -> features of the class token and then of the patches, row by row.

        Raises:
            InputError: the images are not `image_size` pixels wide and high.
        """
        size, patch = self.config.image_size, self.config.patch_size
        if pixels.shape[1:] != (3, size, size):
            raise InputError(f"pixels are {tuple(pixels.shape)}; expected (batch, 3, {size}, {size}): resize first")
        pixels = pixels.to(self.class_token.dtype)
        if self.stem is not None:
            patches = self.stem(pixels)
        else:
            grid = pixels.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
            patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, patches, 3 * patch * patch)
        x = self.patch_embedding(patches)
        x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1) + self.positions
        x = self.pre_norm(x)
        for block in self.blocks:
            x = block(x)
        return x

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the network alone, as an image encoder for stage I."""
        with checkpoint_folder(Path(folder)) as new:
            write_checkpoint(new, VISION, VERSION, asdict(self.config), self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VisionTransformer:
        """Reads what `save_pretrained` wrote; raises CheckpointError for anything else."""
        config = read_config(Path(folder), VISION, VERSION)
        weights = Path(folder) / WEIGHTS
        return load_model(lambda: cls(from_record(VisionConfig, config, "an image encoder")), config, weights)

    @classmethod
    def from_clip(cls, clip: CLIPVisionModel) -> VisionTransformer:
        """The network and weights of a `CLIPVisionModel` of transformers, without its `post_layernorm`.

        Raises:
            CheckpointError: a tensor is missing or unknown.
        """
        vit = cls(_config(clip.config, pre_norm=True, patch_bias=False))
        return _load(vit, clip_tensors(clip.state_dict()))

    @classmethod
    def from_blip2(cls, blip2: Blip2VisionModel) -> VisionTransformer:
        """The network and weights of a `Blip2VisionModel` of transformers (EVA-CLIP ViT-g), without `post_layernorm`.

        Raises:
            CheckpointError: a tensor is missing or unknown.
        """
        vit = cls(_config(blip2.config, pre_norm=False, patch_bias=True))
        theirs = dict(blip2.state_dict())
        theirs["positions"] = theirs.pop("embeddings.position_embedding")
        for i, block in enumerate(vit.blocks):
            assert isinstance(block, Block)
            theirs.setdefault(f"encoder.layers.{i}.self_attn.qkv.bias", torch.zeros_like(block.attention.qkv.bias))
        return _load(vit, _renamed(theirs))


_NAMES = {
    "embeddings.class_embedding": "class_token",
    "embeddings.patch_embedding.": "patch_embedding.",
    "pre_layrnorm.": "pre_norm.",
    "encoder.layers.": "blocks.",
    ".self_attn.out_proj.": ".attention.out.",
    ".self_attn.projection.": ".attention.out.",
    ".self_attn.qkv.": ".attention.qkv.",
    ".layer_norm1.": ".attention_norm.",
    ".layer_norm2.": ".mlp_norm.",
    ".mlp.fc1.": ".mlp.up.",
    ".mlp.fc2.": ".mlp.down.",
}


def _config(theirs: PretrainedConfig, pre_norm: bool, patch_bias: bool) -> VisionConfig:
    return VisionConfig(
        image_size=theirs.image_size,
        patch_size=theirs.patch_size,
        width=theirs.hidden_size,
        layers=theirs.num_hidden_layers,
        heads=theirs.num_attention_heads,
        mlp_width=theirs.intermediate_size,
        layer_norm_eps=theirs.layer_norm_eps,
        activation=theirs.hidden_act,
        pre_norm=pre_norm,
        patch_bias=patch_bias,
    )


def clip_tensors(clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `CLIPVisionModel`, or of the vision part of a `CLIPModel`, of transformers under our names.

    Raises:
        ValueError: a tensor is missing.
    """
    theirs = {key.removeprefix("vision_model."): value for key, value in clip.items()}
    theirs.pop("embeddings.position_ids", None)  # a buffer in checkpoints of earlier releases of transformers
    try:
        theirs["embeddings.class_embedding"] = theirs["embeddings.class_embedding"][None, None]
        theirs["positions"] = theirs.pop("embeddings.position_embedding.weight")[None]
        layers = {key.split(".")[2] for key in theirs if key.startswith("encoder.layers.")}
        for i, kind in product(layers, ("weight", "bias")):
            parts = [theirs.pop(f"encoder.layers.{i}.self_attn.{p}_proj.{kind}") for p in "qkv"]
            theirs[f"encoder.layers.{i}.self_attn.qkv.{kind}"] = torch.cat(parts)
    except KeyError as error:
        raise ValueError(f"not a CLIP: tensor {error} is missing") from None
    return _renamed(theirs)


def _renamed(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names; `post_layernorm` is left out, because the last block's output is used."""
    ours = {}
    for key, value in theirs.items():
        if key in ("post_layernorm.weight", "post_layernorm.bias"):
            continue
        for old, new in _NAMES.items():
            key = key.replace(old, new)
        ours[key] = value.flatten(1) if key == "patch_embedding.weight" else value
    return ours


def _load(vit: VisionTransformer, ours: dict[str, Tensor]) -> VisionTransformer:
    """Loads tensors into `vit`, which gets their dtype and device; raises CheckpointError where names differ."""
    wrong = ours.keys() ^ vit.state_dict().keys()
    if wrong:
        raise CheckpointError(f"tensors missing or unknown: {', '.join(sorted(wrong))}")
    reference = ours["class_token"]
    vit.to(reference.device, reference.dtype).load_state_dict(ours)
    return vit
