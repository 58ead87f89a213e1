"""The mini diffusion model's UNet: diffusers' own, told where each of its positions is."""

import inspect
from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look in this module for how to load it
from jaxtyping import Float
from torch import Tensor, nn


class PositionedConv(nn.Conv2d):
    """A convolution (B, C, H, W) -> (B, D, H, W) plus a learned vector a position."""

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__(channels, width, 3, padding=1)
        self.positions = nn.Parameter(0.5 * torch.randn(1, width, side, side))

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return super().forward(input) + self.positions


class PositionedUNet(UNet2DConditionModel):
    """`UNet2DConditionModel` of one size, whose first convolution adds a learned vector a position.

    From noise alone a UNet knows where it is by the zeros beyond the border, which drown: it then draws the right
    things in the wrong places. Full size needs no such help, and takes any UNet of diffusers.
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
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            transformer_layers_per_block=transformer_layers_per_block,
            attention_head_dim=attention_head_dim,
            cross_attention_dim=cross_attention_dim,
            use_linear_projection=use_linear_projection,
        )
        self.conv_in = PositionedConv(in_channels, block_out_channels[0], sample_size)

    def to_json_string(self) -> str:
        """The configuration without the parent's other settings, which loading would warn of."""
        whole, own = self._internal_dict, inspect.signature(type(self).__init__).parameters
        self._internal_dict = FrozenDict({k: v for k, v in whole.items() if k in own or k.startswith("_")})
        try:
            return super().to_json_string()
        finally:
            self._internal_dict = whole
