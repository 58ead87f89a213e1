"""Memory and time of the evaluations at the counts of the public data sets, with random embeddings and stub answers.

Retrieval: the embeddings of 5,000 images, 32 queries each, and of 25,010 captions, from the files that an evaluation
writes to its recalls. VQA: the publisher's files of 214,354 questions about 40,504 images, through `data prepare` and
an evaluation whose model answers at random. Each is a process of its own; memory is the most that it ever had. CPU time
is of all threads together, and hardly changes with other work on the machine; time by the clock does.

    python benchmarks/full_counts.py [--threads 2] [--images 5000] [--captions 25010] [--questions 214354]
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize

from seedtok.data.prepared import PreparedSet, prepare
from seedtok.evaluation.predictions import Predictions, write_json
from seedtok.evaluation.prompts import PAPER
from seedtok.evaluation.retrieval import IMAGES, OWNERS, QUERIES, TEXTS, score_retrieval
from seedtok.evaluation.run import Run
from seedtok.evaluation.vqa import evaluate_vqa
from seedtok.lm.prompts import TextSettings

PER_IMAGE, WIDTH, BATCH = 32, 256, 100  # BLIP-2's and SEED's, and images in a file
ANSWERS = ("yes", "no", "2", "red", "a dog", "on the left", "tennis", "don't know")


class StubReader:
    """A model that answers at random."""

    row = "stub"
    prompts = PAPER
    settings: dict[str, Any] = {}  # noqa: RUF012

    def write(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]], decoding: TextSettings
    ) -> list[str]:
        return [random.choice(ANSWERS) for own in prompts for _ in own]


def write_embeddings(folder: Path, images: int, captions: int, queries: int = PER_IMAGE) -> None:
    """The files of `evaluate_retrieval`: unit embeddings of images (B, 32, 256) and captions (T, 256), by batches."""
    predictions = Predictions(folder)
    predictions.prepare({"models": {"random": {}}})
    parts = folder / "embeddings" / "random"
    parts.mkdir(parents=True)
    every = torch.arange(captions) * images // captions
    for number, first in enumerate(range(0, images, BATCH)):
        count = min(BATCH, images - first)
        owners = every[(every >= first) & (every < first + count)] - first
        embedded = torch.randn(count, queries, WIDTH), torch.randn(len(owners), WIDTH)
        pictures, texts = (normalize(some, dim=-1) for some in embedded)
        tensors = {IMAGES: pictures, TEXTS: texts, OWNERS: owners, QUERIES: torch.ones(count, dtype=torch.bool)}
        save_file(tensors, parts / f"{number:06}.safetensors")
    write_json(folder / "random.json", [{"image_id": image} for image in range(images)])


def write_questions(folder: Path, count: int) -> None:
    """VQAv2's files of the validation split, with ten answers a question; all pictures are links to one."""
    pictures = folder / "images" / "val2014"
    pictures.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "one.jpg")
    images = max(1, count * 40_504 // 214_354)
    for image in range(images):
        (pictures / f"COCO_val2014_{image:012}.jpg").symlink_to(folder / "one.jpg")
    questions, annotations = [], []
    for number in range(count):
        about = {"image_id": number * images // count, "question_id": number}
        questions.append(about | {"question": f"What is it that stands behind number {number}?"})
        people = [{"answer": random.choice(ANSWERS), "answer_confidence": "yes", "answer_id": k} for k in range(1, 11)]
        kind = random.choice(("yes/no", "number", "other"))
        annotations.append(about | {"answer_type": kind, "question_type": "what is", "answers": people})
    names = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"
    for name, value in zip(names, ({"questions": questions}, {"annotations": annotations}), strict=True):
        (folder / name).write_text(json.dumps(value))


def score_embeddings(folder: Path) -> dict[str, Any]:
    return score_retrieval(Predictions(folder))["random"]


def prepare_questions(folder: Path) -> dict[str, Any]:
    return dict(prepare("vqav2", folder, folder / "images", "val", folder / "set").info.counts)


def answer_questions(folder: Path) -> dict[str, Any]:
    found = evaluate_vqa({StubReader.row: StubReader()}, PreparedSet(folder / "set"), Run(folder / "predictions"))
    return found[StubReader.row]


def measured(
    function: Callable[[Path], dict[str, Any]], folder: Path, threads: int
) -> tuple[dict[str, Any], float, float, float]:
    """What a function returns in a process of its own, its seconds of CPU time and by the clock, and its most GiB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, function, folder, threads).result()


def _measured(
    function: Callable[[Path], dict[str, Any]], folder: Path, threads: int
) -> tuple[dict[str, Any], float, float, float]:
    torch.set_num_threads(threads)
    began, began_by_clock = time.process_time(), time.monotonic()
    result = function(folder)
    seconds, by_clock = time.process_time() - began, time.monotonic() - began_by_clock
    return result, seconds, by_clock, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=25_010)
    parser.add_argument("--questions", type=int, default=214_354)
    parser.add_argument("--folder", help="for the files, a few gigabytes; by default where temporary ones are")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        write_embeddings(Path(scratch, "retrieval"), arguments.images, arguments.captions)
        write_questions(Path(scratch, "vqa"), arguments.questions)
        steps = (
            (f"recalls of {arguments.images:,} x {arguments.captions:,}", score_embeddings, "retrieval"),
            (f"`data prepare` of {arguments.questions:,} questions", prepare_questions, "vqa"),
            (f"answers to {arguments.questions:,} questions, and their scores", answer_questions, "vqa"),
        )
        for name, function, folder in steps:
            result, seconds, by_clock, memory = measured(function, Path(scratch, folder), arguments.threads)
            numbers = ", ".join(f"{key} {value:,.4g}" for key, value in result.items())
            print(f"{name}: {seconds:.1f} s of CPU time, {by_clock:.1f} by the clock, {memory:.2f} GiB\n  {numbers}")


if __name__ == "__main__":
    main()
