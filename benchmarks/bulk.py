"""Tokenizing shards, from files to files, beside the encoder alone on pixels in memory.

The ratio is the CPU time of `encode_pixels` for as many images over that of the whole work: reading, decoding,
normalising, encoding, and writing codes. Both are in as many processes at once, of one thread each, since cores that
share caches and memory slow one another. Starting, loading and ending a process is left out: the time for a single
image is taken off.

    python benchmarks/bulk.py [--workers 2] [--images 1024] [--size 128] [--model mini] [--rounds 2] [--json FILE]
"""

import io
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
from measuring import Row, arguments, compared, report
from PIL import Image

from seedtok.cli.support import load_encoder
from seedtok.core.processes import keep_freed_memory
from seedtok.data.codes import tokenize_shards
from seedtok.data.tars import writing
from seedtok.data.workers import tokenize_in_processes
from seedtok.mini.world.scenes import VARIED, unique_scenes
from seedtok.mini.world.source import to_batch

BATCH = 32


def write_shards(folder: Path, images: list[bytes], shards: int) -> Path:
    with writing(folder, -(-len(images) // shards)) as writer:
        for image in images:
            writer.add(image, "png", "a picture", {})
    return folder


def png(pixels: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "png")
    return file.getvalue()


def cpu_seconds(run: Callable[[], object], who: int = resource.RUSAGE_SELF) -> float:
    """User and system time of a run: of this process or of those that it started."""
    before = resource.getrusage(who)
    run()
    after = resource.getrusage(who)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


_together: Barrier  # of processes that begin at once


def _join(barrier: Barrier) -> None:
    global _together
    _together = barrier
    keep_freed_memory()
    torch.set_num_threads(1)


@torch.inference_mode()
def encode_part(model: str, pictures: np.ndarray) -> float:
    """CPU seconds of `encode_pixels` alone, while other processes do the same."""
    tokenizer = load_encoder(model, "float32", "cpu").tokenizer
    parts = tokenizer.pixels(list(pictures)).split(BATCH)
    tokenizer.encode_pixels(parts[0])
    _together.wait()
    began = time.process_time()
    for part in parts:
        tokenizer.encode_pixels(part)
    return time.process_time() - began


def alone_by_processes(model: str, workers: int, pictures: torch.Tensor) -> float:
    """CPU seconds of several processes that only encode, each its part of the pictures."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _join, (context.Barrier(workers),)) as pool:
        return sum(pool.map(partial(encode_part, model), np.array_split(pictures.permute(0, 2, 3, 1).numpy(), workers)))


def by_processes(model: str, workers: int, source: Path, folder: Path) -> float:
    """CPU seconds of several processes for the shards of a folder, from their start to their end."""
    load = partial(load_encoder, model, "float32", "cpu")

    def run() -> None:
        tokenize_in_processes(load, workers, source, folder / "out", BATCH)
        for process in multiprocessing.active_children():  # the time of a process is known when it has ended
            process.join()

    return cpu_seconds(run, resource.RUSAGE_CHILDREN)


def rows(model: str, workers: int, pictures: torch.Tensor, folder: Path, rounds: int) -> Iterator[Row]:
    encoder = load_encoder(model, "float32", "cpu")
    pixels = encoder.tokenizer.pixels(list(pictures)).split(BATCH)
    images = [png(picture) for picture in pictures]
    source = write_shards(folder / "shards", images, workers)
    one_each = write_shards(folder / "small", images[:workers], workers)
    seconds: dict[str, list[float]] = {name: [] for name in ("alone", "whole", "alone by several", "whole by several")}
    encoder.tokenizer.encode_pixels(pixels[0])
    for _ in range(rounds):
        out = Path(tempfile.mkdtemp(dir=folder))
        found = (
            cpu_seconds(lambda: [encoder.tokenizer.encode_pixels(part) for part in pixels]),
            cpu_seconds(lambda out=out: tokenize_shards(source, out / "out", encoder, encoder.codebook_id, BATCH)),
            alone_by_processes(model, workers, pictures),
            by_processes(model, workers, source, Path(tempfile.mkdtemp(dir=folder)))
            - by_processes(model, workers, one_each, Path(tempfile.mkdtemp(dir=folder))),
        )
        for measured, value in zip(seconds.values(), found, strict=True):
            measured.append(value)
    for processes, kind in ((1, ""), (workers, " by several")):
        name = f"tokenize, {model}, {processes} process{'es' if processes > 1 else ''}"
        whole, alone = seconds[f"whole{kind}"], seconds[f"alone{kind}"]
        yield compared(name, "encode_pixels alone in as many", len(pictures), whole, alone, 0.95)


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__, rounds=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--size", type=int, default=128, help="of the pictures, in pixels")
    parser.add_argument("--model", default="mini")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    pictures = to_batch(unique_scenes("test", args.images, world=VARIED), args.size).pixels
    with tempfile.TemporaryDirectory() as folder:
        found = rows(args.model, args.workers, pictures, Path(folder), args.rounds)
        report("bulk, one thread a process", found, args.json)


if __name__ == "__main__":
    main()
