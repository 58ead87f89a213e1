"""Tokenizing shards, from files to files, beside the encoder alone on pixels in memory.

The ratio is the CPU time of `encode_pixels` for as many images over that of the whole work: reading, decoding,
normalising, encoding, and writing codes. Each process, of one thread, does both in turn, for a shard of its own; all
of them do the same at the same time, since cores that share caches and memory slow one another. Starting processes
and loading the model is left out.

    python benchmarks/bulk.py [--workers 2] [--images 512] [--size 128] [--model mini] [--rounds 7] [--json FILE]
"""

import io
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from measuring import Row, arguments, compared, report
from PIL import Image

from seedtok.cli.support import load_encoder
from seedtok.core.processes import keep_freed_memory
from seedtok.data.bulk import tokenize_shard
from seedtok.data.shard_writer import writing
from seedtok.data.shards import ShardSamples
from seedtok.mini.world.scenes import VARIED, unique_scenes
from seedtok.mini.world.source import to_batch

BATCH = 32


def write_shards(folder: Path, images: torch.Tensor, shards: int) -> list[Path]:
    """Shards of as many images each, the same images in all of them."""
    with writing(folder, len(images)) as writer:
        for image in shards * [png(image) for image in images]:
            writer.add(image, "png", "a picture", {})
    return ShardSamples(folder, shuffle=False).paths


def png(pixels: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "png")
    return file.getvalue()


_together: Barrier  # of processes that begin at once


def _join(barrier: Barrier) -> None:
    global _together
    _together = barrier
    keep_freed_memory()
    torch.set_num_threads(1)


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of all threads of this process, while the other processes do the same."""
    _together.wait()
    before = time.process_time()
    run()
    return time.process_time() - before


@torch.inference_mode()
def by_turns(model: str, rounds: int, shard: Path) -> tuple[list[float], list[float], float]:
    """CPU seconds of the whole work for a shard, and of the encoder alone for its pictures, by round; most GiB."""
    encoder = load_encoder(model, "float32", "cpu")
    pictures = [sample.image for _, sample in ShardSamples(shard, shuffle=False).of_shard(0)]
    pixels = encoder.tokenizer.pixels(pictures).split(BATCH)
    encoder.tokenizer.encode_pixels(pixels[0])
    whole, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            out = Path(folder) / str(number)
            alone.append(cpu_seconds(lambda: [encoder.tokenizer.encode_pixels(part) for part in pixels]))
            whole.append(cpu_seconds(lambda out=out: tokenize_shard(shard, out, encoder, BATCH, overwrite=False)))
    return whole, alone, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(model: str, shards: list[Path], images: int, rounds: int) -> Row:
    """The ratio of as many processes as there are shards."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(shards), context, _join, (context.Barrier(len(shards)),)) as pool:
        results = list(pool.map(partial(by_turns, model, rounds), shards))
    *times, peaks = zip(*results, strict=True)
    whole, alone = ([sum(seconds) for seconds in zip(*each, strict=True)] for each in times)
    name = f"tokenize, {model}, {len(shards)} process{'es' if len(shards) > 1 else ''}"
    bar = 0.95 if len(shards) > 1 else 0.9
    found = compared(name, "encode_pixels alone in as many", len(shards) * images, whole, alone, bar)
    return replace(found, peak=max(peaks))


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=512, help="of a process")
    parser.add_argument("--size", type=int, default=128, help="of the pictures, in pixels")
    parser.add_argument("--model", default="mini")
    args = parser.parse_args()
    pictures = to_batch(unique_scenes("test", args.images, world=VARIED), args.size).pixels
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder), pictures, args.workers)
        found = [row(args.model, shards[:count], args.images, args.rounds) for count in sorted({1, args.workers})]
        report("bulk, one thread a process", found, args.json)


if __name__ == "__main__":
    main()
