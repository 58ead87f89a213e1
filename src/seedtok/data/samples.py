"""One sample of a shard: a picture, its caption, and what else is known of it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from seedtok.core.errors import DataError, ImageError
from seedtok.core.images import MAX_BYTES, load_image
from seedtok.core.records import json_value
from seedtok.data.retries import retried
from seedtok.data.shard_index import MISSING, Entry
from seedtok.data.skipping import NO_CAPTION, BadSample
from seedtok.data.tars import slice_of


class Sample(NamedTuple):
    image: Image.Image
    caption: str
    metadata: dict[str, Any]


def read_sample(path: Path, entry: Entry, needs_caption: bool = True) -> Sample:
    """A sample of a shard, as it was stored; where it needs no caption and has none, that is "".

    Raises BadSample where it lacks something or cannot be read, and DataError where the shard cannot, in several tries.
    """
    if entry.problem:
        raise BadSample(entry.problem)
    if max(size for _, size in entry[1:4]) > MAX_BYTES:
        raise BadSample(f"larger than {MAX_BYTES:,} bytes")
    try:
        image, text, known = retried(partial(_files, path, entry))
        record = json_value(known or b"{}")
        if not isinstance(record, dict):
            raise BadSample("its JSON is not an object")
        caption = record.get("caption") if entry.text == MISSING else text.decode()
        if not isinstance(caption, str):
            if needs_caption:
                raise BadSample(f'{NO_CAPTION}: there is no .txt, and no JSON with a text as "caption"')
            caption = ""
        return Sample(load_image(image), caption, {"key": entry.key} | record)
    except OSError as error:
        raise DataError(f"{path}, sample {entry.key}: {error.strerror or error}") from None
    except (ImageError, ValueError, TypeError, MemoryError) as error:
        raise BadSample(str(error) or type(error).__name__) from None


def _files(path: Path, entry: Entry) -> tuple[bytes, bytes, bytes]:
    """The bytes of the files of a sample: image, caption and JSON metadata, b"" for one that it lacks."""
    with path.open("rb") as file:
        return slice_of(file, entry.image), slice_of(file, entry.text), slice_of(file, entry.metadata)


def drawn_caption(metadata: Mapping[str, Any], seed: Sequence[int]) -> str | None:
    """One of the `captions` in the metadata of a sample, drawn by `seed`; None where it has no list of texts."""
    captions = metadata.get("captions")
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        return None
    return captions[int(np.random.default_rng(seed).integers(len(captions)))]
