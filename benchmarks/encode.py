"""Encoding by `SeedTokenizer`, beside a plain port of the same network with the same weights.

The port is in plain_port.py. All get the same pixels in memory. A ratio is how many images ours encodes in the port's
time for one, in the same dtype; of the mixture (`dtype="auto"`), in float32 and in bfloat16. `--full` is the paper's
size, with random weights: 10 GiB of memory. `--float32` leaves out what computes in bfloat16, as a CPU without
instructions for it does by itself: there that takes many times as long.

Of the mini size it also runs what onnxruntime and OpenVINO make of the port, where they are installed (extra `bench`).

    python benchmarks/encode.py [--full] [--float32] [--batch 32] [--threads 2] [--model mini] [--rounds 5]
        [--json FILE]
"""

import copy
from collections.abc import Callable, Iterator
from functools import cache

import torch
from exported import PACKAGES, exported, missing
from full_size import filled
from measuring import Row, arguments, compared, gemm_limit, in_turn, report
from plain_port import PlainPort
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from seedtok import SeedTokenizer
from seedtok.core.device import computes_bfloat16_fast
from seedtok.core.processes import keep_freed_memory
from seedtok.mini.text import bert_tokenizer
from seedtok.mini.world.scenes import VARIED, unique_scenes
from seedtok.mini.world.source import to_batch
from seedtok.recipes import paper_size


def full_size(float32: bool = False) -> list[SeedTokenizer]:
    """The paper's tokenizer with random weights: in float32, in bfloat16, and with the products alone in bfloat16.

    With `float32`, the first alone.
    """
    with torch.device("meta"):
        half = paper_size.seed_tokenizer(bert_tokenizer())
    filled(half)
    half.codebook.float().weight.data.normal_()
    if float32:
        return [half.float().eval()]
    mixed = copy.deepcopy(half).float()
    mixed.embedder.narrow_products(torch.bfloat16)
    return [copy.deepcopy(half).float().eval(), half.eval(), mixed.eval()]


def spread_codes(tokenizers: list[SeedTokenizer], pixels: Tensor) -> None:
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
    """Ours and their opponents, on the same pixels: of each, a function without arguments that gives codes.

    Of ours, `exact` is in float32; those in bfloat16 and with the products alone in bfloat16 may be left out.
    """

    def __init__(
        self,
        pixels: Tensor,
        exact: SeedTokenizer,
        half: SeedTokenizer | None = None,
        mixed: SeedTokenizer | None = None,
    ):
        self.pixels, self.exact, self.port = pixels, exact, PlainPort.of(exact)
        self.runs: dict[str, Callable[[], Tensor]] = {
            "port float32": lambda: self.port(pixels),
            "float32": lambda: exact.encode_pixels(pixels),
        }
        if half is not None:
            half_port, narrow = PlainPort.of(half), pixels.bfloat16()
            self.runs["port bfloat16"] = lambda: half_port(narrow)
            self.runs["bfloat16"] = lambda: half.encode_pixels(narrow)
        if mixed is not None:
            self.runs["auto"] = lambda: mixed.encode_pixels(pixels)

    @cache  # noqa: B019  # one that lives as long as the process
    def codes(self, name: str) -> Tensor:
        return self.runs[name]()

    def operations(self) -> int:
        """Those of ours on these pixels."""
        self.exact.requires_grad_(False)  # what the counter cannot do without a graph
        with FlopCounterMode(display=False) as counter:
            self.codes("float32")
        return counter.get_total_flops()

    def equality(self, name: str) -> tuple[float, str]:
        """How many of a run's codes are those of float32, and how much further the others are."""
        codes, expected = self.codes(name), self.codes("float32")
        changed = codes != expected
        if not changed.any():
            return 1.0, "all codes equal to float32's"
        z = self.exact.encode_head(self.exact.causal_embeddings(self.pixels))
        distance, least = ((z - self.exact.codebook.lookup(rows)).norm(dim=-1) for rows in (codes, expected))
        equal, further = 1 - float(changed.double().mean()), float((distance / least - 1)[changed].mean())
        return equal, f"{equal:.2%} of codes equal to float32's; the others {further:.2%} further from the vector"


def loaded(full: bool, model: str, batch: int, float32: bool) -> Encoders:
    if full:
        models = full_size(float32)
        pixels = F.interpolate(torch.randn(batch, 3, 16, 16), size=(224, 224), mode="bicubic")
        spread_codes(models, pixels[:2])
        return Encoders(pixels, *models)
    exact = SeedTokenizer.from_pretrained(model)
    pixels = exact.pixels(to_batch(unique_scenes("test", batch, world=VARIED), 128).pixels)
    if float32:
        return Encoders(pixels, exact)
    half, mixed = SeedTokenizer.from_pretrained(model, dtype=torch.bfloat16), SeedTokenizer.from_pretrained(model)
    mixed.embedder.narrow_products(torch.bfloat16)
    return Encoders(pixels, exact, half, mixed)


def rows(encoders: Encoders, size: str, threads: int, rounds: int) -> Iterator[Row]:
    full, count = size == "full size", len(encoders.pixels)
    others = {} if full else exported(encoders.port, encoders.pixels, threads)
    encoders.runs |= others
    seconds, operations = in_turn(encoders.runs, rounds), encoders.operations()
    pairs = [pair for pair in [*BARS, *(("float32", name) for name in others)] if pair[0] in seconds]
    dtypes = {ours: "float32" if ours == "float32" else "bfloat16" for ours, _ in pairs}
    limits = {dtype: gemm_limit(getattr(torch, dtype)) for dtype in set(dtypes.values())}
    for ours, theirs in pairs:
        own, bar = seconds[ours], BARS[ours, theirs][full] if (ours, theirs) in BARS else 1.0
        share = operations / sorted(own)[len(own) // 2] / limits[dtypes[ours]]
        told = encoders.equality(theirs if ours == "float32" else ours)[1]
        note = f"{theirs}: {told}" if ours == "float32" else told
        yield compared(f"encode, {size}, batch {count}, {ours}", theirs, count, own, seconds[theirs], bar, share, note)
    if "auto" in seconds:
        yield Row(f"encode, {size}, auto: codes equal", "float32", encoders.equality("auto")[0], bar=0.99)
    else:
        yield Row(
            f"encode, {size}, bfloat16 and auto", note="left out: by --float32 or a CPU without such instructions"
        )
    for name in () if full else PACKAGES:
        if package := missing(name):
            yield Row(
                f"encode, {size}, batch {count}, float32", name, note=f"{package} is not installed: extra `bench`"
            )


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--float32", action="store_true", help="without bfloat16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="mini")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    float32 = args.float32 or not computes_bfloat16_fast(torch.device("cpu"))
    encoders, size = loaded(args.full, args.model, args.batch, float32), "full size" if args.full else args.model
    report(f"encoding, {args.threads} threads", rows(encoders, size, args.threads, args.rounds), args.json)


if __name__ == "__main__":
    main()
