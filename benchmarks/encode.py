"""Images a second of `SeedTokenizer.encode`, beside a plain float32 port of the same network.

The port is what a first reading of the paper gives: separate query, key and value products, attention as two matrix
products and a softmax, a convolution for the patches, the distance to every code. Both get the same pixels in memory.

    python benchmarks/encode.py [--batch 32] [--threads 2] [--model mini]
"""

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok import SeedTokenizer
from seedtok.core.processes import keep_freed_memory
from seedtok.mini.world.scenes import unique_scenes
from seedtok.mini.world.source import to_batch


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int, encoder_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(encoder_width or width, width)
        self.value = nn.Linear(encoder_width or width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, features: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        features = x if features is None else features
        batch, count, width = x.shape
        q, k, v = (
            part.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query(x), self.key(features), self.value(features))
        )
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        if mask is not None:
            scores = scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, width))


class PlainPort(nn.Module):
    """The encoding half of a `SeedTokenizer`, with its weights."""

    def __init__(self, seed: SeedTokenizer):
        super().__init__()
        self.seed = seed
        vision, qformer = seed.embedder.vision, seed.embedder.qformer
        side, width = vision.config.patch_size, vision.config.width
        self.patches = nn.Conv2d(3, width, side, stride=side, bias=vision.patch_embedding.bias is not None)
        self.patches.weight.data = vision.patch_embedding.weight.data.view(width, 3, side, side)
        if vision.patch_embedding.bias is not None:
            self.patches.bias = vision.patch_embedding.bias
        self.vision = nn.ModuleList(self._self(b.attention, width, vision.config.heads) for b in vision.blocks)
        width, heads = qformer.config.width, qformer.config.heads
        self.queries = nn.ModuleList(self._self(layer.attention, width, heads) for layer in qformer.layers)
        self.cross = nn.ModuleList(
            nn.Identity()
            if layer.cross is None
            else self._cross(layer.cross, width, heads, qformer.config.encoder_width)
            for layer in qformer.layers
        )

    @staticmethod
    def _fill(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
        linear.weight.data, linear.bias.data = weight.clone(), bias.clone()

    def _self(self, fused: nn.Module, width: int, heads: int) -> PlainAttention:
        plain = PlainAttention(width, heads)
        weights, biases = fused.qkv.weight.data.chunk(3), fused.qkv.bias.data.chunk(3)
        for linear, weight, bias in zip((plain.query, plain.key, plain.value), weights, biases, strict=True):
            self._fill(linear, weight, bias)
        self._fill(plain.out, fused.out.weight.data, fused.out.bias.data)
        return plain

    def _cross(self, fused: nn.Module, width: int, heads: int, encoder_width: int) -> PlainAttention:
        plain = PlainAttention(width, heads, encoder_width)
        self._fill(plain.query, fused.query.weight.data, fused.query.bias.data)
        weights, biases = fused.kv.weight.data.chunk(2), fused.kv.bias.data.chunk(2)
        for linear, weight, bias in zip((plain.key, plain.value), weights, biases, strict=True):
            self._fill(linear, weight, bias)
        self._fill(plain.out, fused.out.weight.data, fused.out.bias.data)
        return plain

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        vision, qformer = self.seed.embedder.vision, self.seed.embedder.qformer
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([vision.class_token.expand(len(x), -1, -1), x], 1) + vision.positions
        if vision.pre_norm is not None:
            x = vision.pre_norm(x)
        for block, attention in zip(vision.blocks, self.vision, strict=True):
            x = x + attention(block.attention_norm(x))
            x = x + block.mlp.down(F.gelu(block.mlp.up(block.mlp_norm(x))))
        features = self.seed.embedder.ln_vision(x)
        if self.seed.embedder.patch_positions is not None:
            features = features + self.seed.embedder.patch_positions
        q = qformer.embedding_norm(qformer.query_tokens).expand(len(x), -1, -1)
        mask = torch.full((q.shape[1], q.shape[1]), float("-inf")).triu(1)
        for layer, attention, cross in zip(qformer.layers, self.queries, self.cross, strict=True):
            q = layer.attention_norm(q + attention(q, mask=mask))
            if layer.cross is not None:
                q = layer.cross_norm(q + cross(q, features))
            q = layer.query_mlp_norm(q + layer.query_mlp.down(F.gelu(layer.query_mlp.up(q))))
        z = self.seed.encode_head(q).flatten(0, 1)
        table = self.seed.codebook.weight
        distance = z.square().sum(1, keepdim=True) + table.square().sum(1) - 2 * z @ table.T
        return distance.argmin(1).view(len(pixels), -1)


def rate(function, images: int, seconds: float = 5.0) -> float:
    """Images a second, of the best of several rounds: other work on the machine only slows a round down."""
    function()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return images / best


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="mini")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    images = to_batch(unique_scenes("test", arguments.batch), 128).pixels

    exact = SeedTokenizer.from_pretrained(arguments.model)
    fast = SeedTokenizer.from_pretrained(arguments.model, dtype=torch.bfloat16)
    port = PlainPort(exact)
    pixels, half = exact.pixels(images), fast.pixels(images)

    same = (port.encode(pixels) == exact.encode_pixels(pixels)).double().mean()
    close = (fast.encode_pixels(half) == exact.encode_pixels(pixels)).double().mean()
    plain = rate(lambda: port.encode(pixels), len(images))
    rows = [
        ("plain float32 port", plain),
        ("seedtok float32", rate(lambda: exact.encode_pixels(pixels), len(images))),
        ("seedtok bfloat16", rate(lambda: fast.encode_pixels(half), len(images))),
        ("seedtok bfloat16, from PIL images", rate(lambda: fast.encode(images), len(images))),
    ]
    print(f"batch {len(images)}, {arguments.threads} threads")
    print(f"codes that agree with float32's: the port's {same:.2%}, bfloat16's {close:.2%}")
    for name, value in rows:
        print(f"{name:36s} {value:8.1f} images/s  {value / plain:5.2f} x")


if __name__ == "__main__":
    main()
