"""The UNet of the mini diffusion model: that of diffusers with learned position embeddings."""

import inspect
from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look up the base class here
from jaxtyping import Float
from torch import Tensor, nn


class PositionedConv(nn.Conv2d):
    """A convolution (B, C, H, W) -> (B, D, H, W) that adds a learned vector at each position."""

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__(channels, width, 3, padding=1)
        self.positions = nn.Parameter(0.5 * torch.randn(1, width, side, side))

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return super().forward(input) + self.positions


class PositionedUNet(UNet2DConditionModel):
    """A `UNet2DConditionModel` of fixed size with learned position embeddings after its first convolution.

    A plain UNet infers positions from the zero padding at the border only. A small one then draws the right objects in
    the wrong places. At full size any UNet of diffusers works.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 32,
        out_channels: int = 32,
        down_block_types: Sequence[str] = ("CrossAttnDownBlock2D",),
        up_block_types: Sequence[str] = ("CrossAttnUpBlock2D",),
        block_out_channels: Sequence[int] = (256,),
        layers_per_block: int = 1,
        transformer_layers_per_block: int = 1,
        attention_head_dim: int = 4,
        cross_attention_dim: int = 256,
        use_linear_projection: bool = True,
    ) -> None:
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=tuple(down_block_types),
            up_block_types=tuple(up_block_types),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            transformer_layers_per_block=transformer_layers_per_block,
            attention_head_dim=attention_head_dim,
            cross_attention_dim=cross_attention_dim,
            use_linear_projection=use_linear_projection,
        )
        self.conv_in = PositionedConv(in_channels, block_out_channels[0], sample_size)

    def to_json_string(self) -> str:
        """The configuration as JSON, without settings of the base class that this constructor does not take."""
        complete, own = self._internal_dict, inspect.signature(type(self).__init__).parameters
        self._internal_dict = FrozenDict({k: v for k, v in complete.items() if k in own or k.startswith("_")})
        try:
            return super().to_json_string()
        finally:
            self._internal_dict = complete
