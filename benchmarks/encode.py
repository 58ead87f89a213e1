"""Encoding by `SeedTokenizer`, beside a plain port of the same network with the same weights.

The port is what a first reading of the paper gives: separate query, key and value products, attention as two matrix
products and a softmax, a convolution for the patches, the distance to every code. All get the same pixels in memory. A
ratio is how many images ours encodes in the port's time for one, in the same dtype; of the mixture (`dtype="auto"`), in
float32 and in bfloat16. `--full` is the paper's size, with random weights: 10 GiB of memory.

Of the mini size it also runs what onnxruntime and OpenVINO make of the port, where they are installed (extra `bench`).

    python benchmarks/encode.py [--full] [--batch 32] [--threads 2] [--model mini] [--rounds 5] [--json FILE]
"""

import copy
from collections.abc import Callable, Iterator

import torch
from exported import PACKAGES, exported, missing
from full_size import filled
from measuring import Row, arguments, compared, gemm_limit, in_turn, report
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from seedtok import SeedTokenizer
from seedtok.core.processes import keep_freed_memory
from seedtok.mini.text import bert_tokenizer
from seedtok.mini.world.scenes import VARIED, unique_scenes
from seedtok.mini.world.source import to_batch
from seedtok.recipes import paper_size


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
        mask = torch.full((q.shape[1], q.shape[1]), float("-inf"), dtype=q.dtype).triu(1)
        for layer, attention, cross in zip(qformer.layers, self.queries, self.cross, strict=True):
            q = layer.attention_norm(q + attention(q, mask=mask))
            if layer.cross is not None:
                q = layer.cross_norm(q + cross(q, features))
            q = layer.query_mlp_norm(q + layer.query_mlp.down(F.gelu(layer.query_mlp.up(q))))
        z = self.seed.encode_head(q).flatten(0, 1).float()
        table = self.seed.codebook.weight
        distance = z.square().sum(1, keepdim=True) + table.square().sum(1) - 2 * z @ table.T
        return distance.argmin(1).view(len(pixels), -1)


def full_size() -> tuple[SeedTokenizer, SeedTokenizer, SeedTokenizer]:
    """The paper's tokenizer with random weights: in float32, in bfloat16, and with the products alone in bfloat16."""
    with torch.device("meta"):
        half = paper_size.seed_tokenizer(bert_tokenizer())
    filled(half)
    half.codebook.float().weight.data.normal_()
    mixed = copy.deepcopy(half).float()
    mixed.embedder.narrow_products(torch.bfloat16)
    return copy.deepcopy(half).float().eval(), half.eval(), mixed.eval()


def spread_codes(tokenizers: tuple[SeedTokenizer, ...], pixels: Tensor) -> None:
    """Random codebooks of the mean and deviation of what they quantise, as trained ones have."""
    z = tokenizers[0].encode_head(tokenizers[0].causal_embeddings(pixels)).flatten(0, 1)
    table = z.mean(0) + z.std(0) * torch.randn(tokenizers[0].codebook.weight.shape)
    for tokenizer in tokenizers:
        tokenizer.codebook.weight.copy_(table)


BARS = {  # of the mini and of the full size; the last two are of all sizes
    ("float32", "port float32"): (1.6, 1.8),
    ("bfloat16", "port bfloat16"): (None, 1.0),
    ("auto", "bfloat16"): (0.9, 0.9),
    ("auto", "port float32"): (2.5, None),
}


class Encoders:
    """Ours and their opponents, on the same pixels: of each, a function without arguments that gives codes."""

    def __init__(self, pixels: Tensor, exact: SeedTokenizer, half: SeedTokenizer, mixed: SeedTokenizer):
        self.pixels, self.exact = pixels, exact
        self.port = PlainPort(exact)
        half_port, narrow = PlainPort(half), pixels.bfloat16()
        self.runs: dict[str, Callable[[], Tensor]] = {
            "port float32": lambda: self.port.encode(pixels),
            "float32": lambda: exact.encode_pixels(pixels),
            "port bfloat16": lambda: half_port.encode(narrow),
            "bfloat16": lambda: half.encode_pixels(narrow),
            "auto": lambda: mixed.encode_pixels(pixels),
        }

    def operations(self) -> int:
        self.exact.requires_grad_(False)  # what the counter cannot do without a graph
        with FlopCounterMode(display=False) as counter:
            self.exact.encode_pixels(self.pixels)
        return counter.get_total_flops()

    def equality(self, name: str) -> tuple[float, str]:
        """How many of a run's codes are those of float32, and how much further the others are."""
        codes, expected = self.runs[name](), self.runs["float32"]()
        changed = codes != expected
        if not changed.any():
            return 1.0, "all codes equal to float32's"
        z = self.exact.encode_head(self.exact.causal_embeddings(self.pixels))
        distance, least = ((z - self.exact.codebook.lookup(rows)).norm(dim=-1) for rows in (codes, expected))
        equal, further = 1 - float(changed.double().mean()), float((distance / least - 1)[changed].mean())
        return equal, f"{equal:.2%} of codes equal to float32's; the others {further:.2%} further from the vector"


def loaded(full: bool, model: str, batch: int) -> Encoders:
    if full:
        models = full_size()
        pixels = F.interpolate(torch.randn(batch, 3, 16, 16), size=(224, 224), mode="bicubic")
        spread_codes(models, pixels[:2])
        return Encoders(pixels, *models)
    load = SeedTokenizer.from_pretrained
    exact, half, mixed = load(model), load(model, dtype=torch.bfloat16), load(model)
    mixed.embedder.narrow_products(torch.bfloat16)
    return Encoders(exact.pixels(to_batch(unique_scenes("test", batch, world=VARIED), 128).pixels), exact, half, mixed)


def rows(encoders: Encoders, size: str, threads: int, rounds: int) -> Iterator[Row]:
    full, count = size == "full size", len(encoders.pixels)
    others = {} if full else exported(encoders.port, encoders.port.encode, encoders.pixels, threads)
    encoders.runs |= others
    seconds, operations = in_turn(encoders.runs, rounds), encoders.operations()
    limits = {name: gemm_limit(getattr(torch, name)) for name in ("float32", "bfloat16")}
    pairs = [*BARS, *(("float32", name) for name in others)]
    for ours, theirs in pairs:
        own, bar = seconds[ours], BARS[ours, theirs][full] if (ours, theirs) in BARS else 1.0
        share = operations / sorted(own)[len(own) // 2] / limits["float32" if ours == "float32" else "bfloat16"]
        told = encoders.equality(theirs if ours == "float32" else ours)[1]
        note = f"{theirs}: {told}" if ours == "float32" else told
        yield compared(f"encode, {size}, batch {count}, {ours}", theirs, count, own, seconds[theirs], bar, share, note)
    yield Row(f"encode, {size}, auto: codes equal", "float32", encoders.equality("auto")[0], bar=0.99)
    for name in () if full else PACKAGES:
        if package := missing(name):
            yield Row(
                f"encode, {size}, batch {count}, float32", name, note=f"{package} is not installed: extra `bench`"
            )


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="mini")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    encoders, size = loaded(args.full, args.model, args.batch), "full size" if args.full else args.model
    report(f"encoding, {args.threads} threads", rows(encoders, size, args.threads, args.rounds), args.json)


if __name__ == "__main__":
    main()
