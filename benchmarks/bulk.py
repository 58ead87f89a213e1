"""Tokenizing shards, from files to files, beside the encoder alone on pixels in memory.

The ratio is the CPU time of `encode_pixels` for as many images over that of the whole work: reading, decoding,
normalising, encoding, and writing codes. It is the part of a core's time that the encoder has, and so what processes of
one thread each reach on as many free cores. Of processes, starting and loading is left out.

    python benchmarks/bulk.py [--workers 2] [--images 1024] [--size 128] [--model mini] [--rounds 2] [--json FILE]
"""

import io
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

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
from seedtok.tokenizer.familiarity import CheckedEncoder

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


def load_and_note(model: str, folder: Path) -> CheckedEncoder:
    """The encoder; the CPU seconds of this process so far are written into a file of the folder."""
    encoder = load_encoder(model, "float32", "cpu")
    (folder / str(os.getpid())).write_text(str(time.process_time()))
    return encoder


def by_processes(model: str, workers: int, source: Path, folder: Path) -> float:
    """CPU seconds of several processes for the shards of a folder, once their encoders are loaded."""
    (starts := folder / "starts").mkdir()
    load = partial(load_and_note, model, starts)

    def run() -> None:
        tokenize_in_processes(load, workers, source, folder / "out", BATCH)
        for process in multiprocessing.active_children():  # the time of a process is known when it has ended
            process.join()

    seconds = cpu_seconds(run, resource.RUSAGE_CHILDREN)
    return seconds - sum(float(path.read_text()) for path in starts.iterdir())


def rows(model: str, workers: int, pictures: torch.Tensor, folder: Path, rounds: int) -> Iterator[Row]:
    encoder = load_encoder(model, "float32", "cpu")
    pixels = encoder.tokenizer.pixels(list(pictures)).split(BATCH)
    source = write_shards(folder / "shards", [png(picture) for picture in pictures], workers)
    alone, whole, several = list[float](), list[float](), list[float]()
    encoder.tokenizer.encode_pixels(pixels[0])
    for _ in range(rounds):
        out = Path(tempfile.mkdtemp(dir=folder))
        alone.append(cpu_seconds(lambda: [encoder.tokenizer.encode_pixels(part) for part in pixels]))
        whole.append(
            cpu_seconds(lambda out=out: tokenize_shards(source, out / "out", encoder, encoder.codebook_id, BATCH))
        )
        several.append(by_processes(model, workers, source, Path(tempfile.mkdtemp(dir=folder))))
    for processes, seconds in ((1, whole), (workers, several)):
        name = f"tokenize, {model}, {processes} process{'es' if processes > 1 else ''}"
        yield compared(name, "encode_pixels alone", len(pictures), seconds, alone, 0.95)


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
