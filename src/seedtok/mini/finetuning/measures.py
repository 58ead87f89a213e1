"""What a fine-tuning measures: captions of held-out pictures, and how far pictures are from those of training."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import ImageError
from seedtok.core.text import clean_caption
from seedtok.data.entries import Entry
from seedtok.data.held_out import Part
from seedtok.data.prepared import ShardSet
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.familiarity import Familiarity, encode_and_check, pooled_features
from seedtok.tokenizer.seed import SeedTokenizer

BATCH = 32  # pictures at once


def measure(lm: SeedLM, pictures: ShardSet, caption_tokens: int, file: Path) -> dict[str, float]:
    """Captions pictures as `seedtok caption` does, and writes each beside the picture's own, as a line of JSON.

    Returns, in percent: captions that are "exact", equal to one of the picture's own after `clean_caption`; pictures
    that are "far" from those of training.
    """
    records: list[dict[str, Any]] = []
    stream = readable(pictures)
    while some := list(islice(stream, BATCH)):
        codes, is_far = encode_and_check(lm.seed, lm.seed.pixels([image for _, image in some]))
        captions = lm.caption(codes, min_new_tokens=caption_tokens)
        for (entry, _), text, far in zip(some, captions, is_far.tolist(), strict=True):
            right = clean_caption(text) in map(clean_caption, entry.captions)
            own = list(entry.captions)
            records.append({"image": entry.image, "caption": text, "own": own, "exact": right, "far": far})
    with atomic_file(file) as temporary:
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        temporary.write_text("".join(lines), encoding="utf-8", errors="replace")
    return _shares(records)


def measured(file: Path, pictures: ShardSet) -> dict[str, float] | None:
    """What `measure` returned when it wrote a file; None where there is none, or one of other pictures or captions."""
    if not file.is_file():
        return None
    with file.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    expected = [(entry.image, list(entry.captions)) for entry in pictures]
    is_same = [(record["image"], record["own"]) for record in records] == expected
    return _shares(records) if is_same and all("far" in record for record in records) else None


def _shares(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    count = max(1, len(records))
    return {name: 100 * sum(record[name] for record in records) / count for name in ("exact", "far")}


def measure_distances(folder: Path, sources: Iterable[Path], held_out: float) -> None:
    """Fits the `Familiarity` of the tokenizer in a folder to the training pictures of all sources, evenly.

    Sources are folders of shards. Of the pictures held out of each, at most 1 in 200 is far.
    """
    seed = SeedTokenizer.from_pretrained(folder)
    training, held = ([_features(seed, source, Part(held_out, side)) for source in sources] for side in (False, True))
    most = max(map(len, training))
    even = torch.cat([own.repeat(-(-most // len(own)), 1)[:most] for own in training])
    found = Familiarity.fit(even, held[0], components=even.shape[1] // 2)
    for others in held[1:]:
        found.widen(others)
    found.save(folder)


def _features(seed: SeedTokenizer, source: Path, part: Part) -> torch.Tensor:
    return pooled_features(seed, (image for _, image in readable(ShardSet(source, part=part))))


def readable(pictures: ShardSet) -> Iterator[tuple[Entry, Image.Image]]:
    """The pictures of a set that can be read; training skips the others too."""
    for index in range(len(pictures)):
        with suppress(ImageError):
            yield pictures[index], pictures.picture(index)
