"""WebDataset shards in img2dataset's layout, from scenes or from people's own pictures, and back.

A shard `00000.tar` holds, for every sample, KEY.png or KEY.jpg, KEY.txt (the caption) and KEY.json (all that
is known); `00000_stats.json` beside it holds its counts. img2dataset's own shards are read as well.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import copy
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from seedtok.data.pairs import Pair, read_pairs
from seedtok.data.scenes import PHRASINGS, SIZES, SPLITS, Split, caption, render, scene_stream, unique_scenes
from seedtok.data.tars import Entry, ShardReport, count_samples, index_samples, slice_of, stats_path, writing
from seedtok.data.text import clean_caption
from seedtok.errors import DataError, ImageError
from seedtok.images import load_image
from seedtok.records import json_value

Progress = Callable[[int], object]  # called after each sample with the number handled so far
WINDOW = 8  # shards whose samples are shuffled together


# ---------------------------------------------------------------- out


def write_scene_shards(
    out: str | Path,
    split: Split,
    count: int,
    size: int = 128,
    seed: int = 0,
    shard_size: int = 1000,
    progress: Progress | None = None,
) -> ShardReport:
    """Scenes of the mini world as shards; the same arguments give the same bytes.

    Validation and test hold scenes of different captions, worded canonically; train is the stream of scenes,
    each worded at random. The JSON has key, caption, scene, split and seed. Raises DataError for arguments
    out of range and for a folder that holds shards already; on any error, nothing is left in the folder.
    """
    if split not in SPLITS:
        raise DataError(f"no split {split!r}: choose {', '.join(SPLITS)}")
    if size not in SIZES:
        raise DataError(f"scenes are drawn at {' or '.join(map(str, SIZES))} pixels, not {size}")
    if count < 1 or seed < 0:
        raise DataError(f"expected a count of at least 1 and a seed of at least 0, not {count} and {seed}")
    with writing(Path(out), shard_size) as writer:
        scenes = scene_stream(split, seed) if split == "train" else iter(unique_scenes(split, count, seed))
        for index in range(count):
            scene = next(scenes)
            phrasing = np.random.default_rng([7, seed, index]).integers(PHRASINGS) if split == "train" else 0
            record = {"scene": scene.to_json(), "split": split, "seed": seed}
            picture = _png(Image.fromarray(render(scene, size)))
            writer.add(picture, "png", caption(scene, int(phrasing)), record)
            if progress:
                progress(index + 1)
    return writer.report(Path(out))


def pack(
    source: str | Path,
    out: str | Path,
    *,
    captions: str | Path | None = None,
    images: str | Path | None = None,
    size: int | None = None,
    shard_size: int = 1000,
    progress: Progress | None = None,
) -> ShardReport:
    """People's own pictures as shards.

    `source` is a folder in which each image has a .txt of its name beside it; or a .csv, .tsv, .jsonl or
    .json table with an image column (image, path, file, filepath or file_name) and a caption column (caption,
    text or title; in JSON, a list of captions is fine); or a COCO captions .json. Image names are relative to
    the folder `images`, else to the file's own. A folder with its table as `captions` says the same the other
    way round.

    With `size`, the shorter side is reduced to it (never enlarged). A JPEG that needs neither that, nor
    turning, nor a conversion keeps its bytes; anything else is stored as PNG. A picture with several captions
    is one sample: its text is the first, and `captions` in its JSON has all, of which `ShardSamples` draws
    one an epoch. The JSON also has key, caption, original_captions (as they were before `clean_caption`),
    image, width and height. Missing or broken images and empty captions are skipped and reported. Raises
    DataError as `write_scene_shards`, and when nothing is left.
    """
    pairs = read_pairs(Path(source), _path(captions), _path(images))
    return pack_pairs(pairs, out, str(source), size=size, shard_size=shard_size, progress=progress)


def pack_pairs(
    pairs: Iterable[Pair],
    out: str | Path,
    source: str,
    *,
    size: int | None = None,
    shard_size: int = 1000,
    progress: Progress | None = None,
) -> ShardReport:
    """Pictures with their captions as shards, as `pack` writes them; `source` is what an error calls them."""
    if size is not None and size < 1:
        raise DataError(f"expected a size of at least 1 pixel, not {size}")
    with writing(Path(out), shard_size) as writer:
        for number, pair in enumerate(pairs, start=1):
            cleaned = tuple(filter(None, map(clean_caption, pair.captions)))
            problem = pair.problem or (None if cleaned else "an empty caption")
            if problem:
                writer.skip(pair.name, problem, "failed_to_download")
            else:
                try:
                    stored, suffix, (width, height) = _stored(pair.path, size)
                except ImageError as error:
                    known = "failed_to_resize" if pair.path.is_file() else "failed_to_download"
                    writer.skip(pair.name, str(error), known)
                else:
                    record = {"captions": cleaned, "original_captions": pair.captions}
                    record |= {"image": pair.name, "width": width, "height": height}
                    writer.add(stored, suffix, cleaned[0], record)
            if progress:
                progress(number)
        if not writer.written:
            reason = f"; the first: {': '.join(writer.skipped[0])}" if writer.skipped else ""
            raise DataError(f"{source}: none of its {len(writer.skipped)} pictures can be packed{reason}")
    return writer.report(Path(out))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _stored(path: Path, size: int | None) -> tuple[bytes, str, tuple[int, int]]:
    image = load_image(path)
    short = min(image.size)
    if size is not None and short > size:
        width, height = (max(1, round(side * size / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3)
    elif _plain_jpeg(data := path.read_bytes()):
        return data, "jpg", image.size
    return _png(image), "png", image.size


def _plain_jpeg(data: bytes) -> bool:
    with warnings.catch_warnings(), suppress(Exception):  # what cannot be told is stored as PNG
        warnings.simplefilter("ignore")
        image = Image.open(BytesIO(data))
        return image.format == "JPEG" and image.mode in ("L", "RGB") and image.getexif().get(0x0112, 1) == 1
    return False


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "PNG")  # the pixels and no metadata
    return buffer.getvalue()


# ---------------------------------------------------------------- in


class Sample(NamedTuple):
    image: Image.Image
    caption: str
    metadata: dict[str, Any]


class ShardSamples:
    """Endless (image, caption, metadata) of shards: epochs, each in an order of (seed, epoch) alone.

    `source` is a folder of .tar files, one such file or several. An epoch visits the shards in a random order
    and mixes the samples of `WINDOW` shards at a time; with `shuffle` off, everything comes in the order it
    was written, and a picture of several captions with the first. Rank r of n takes every n-th sample, across
    the seams of epochs, so that together the ranks see each sample once an epoch; a loader's workers are
    ranks too (rank * workers + worker, of world_size * workers). Images come as `load_image` gives them,
    captions as they were stored.

    Raises DataError for what is missing, not a tar, truncated or without an image or caption: on construction
    where that shows at once, else when the sample is reached.
    """

    def __init__(
        self,
        source: str | Path | Iterable[str | Path],
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise DataError(f"expected a rank from 0 to {world_size - 1}, not {rank}")
        if seed < 0:
            raise DataError(f"expected a seed of at least 0, not {seed}")
        self.paths = _shard_paths(source)
        self.seed, self.shuffle, self.rank, self.world_size = seed, shuffle, rank, world_size
        self._counts = [count_samples(path) for path in self.paths]
        self.epoch_size = sum(self._counts)  # over all ranks
        self._start = 0
        if not self.epoch_size:
            raise DataError(f"{self.paths[0].parent}: its shards hold no samples")

    def skip(self, count: int) -> "ShardSamples":
        """The same samples without this rank's first `count`, which are not read."""
        if count < 0:
            raise DataError(f"cannot skip {count} samples")
        later = copy(self)
        later._start += count
        return later

    def __iter__(self) -> Iterator[Sample]:
        return self.at(itertools.count(self.rank + self._start * self.world_size, self.world_size))

    def at(self, turns: Iterable[int]) -> Iterator[Sample]:
        """The samples at these places, which ascend, of the endless line that all ranks share."""
        following = iter(turns)
        turn = next(following, None)
        indexes: dict[int, list[Entry]] = {}
        while turn is not None:
            epoch, position = divmod(turn, self.epoch_size)
            begin = 0
            shards = self._permutation(len(self.paths), epoch)
            for number in range(0, len(shards), WINDOW):
                window = [int(s) for s in shards[number : number + WINDOW]]
                end = begin + sum(self._counts[s] for s in window)
                if position < end:
                    indexes = {s: indexes[s] for s in window if s in indexes}
                    places = [(s, i) for s in window for i in range(self._counts[s])]
                    order = self._permutation(len(places), epoch, number + 1)
                while turn is not None and position < end:
                    shard, index = places[order[position - begin]]
                    if shard not in indexes:
                        indexes[shard] = self._index(shard)
                    yield self._read(shard, indexes[shard][index], epoch)
                    turn = next(following, None)
                    position = self.epoch_size if turn is None else turn - epoch * self.epoch_size
                begin = end

    def _permutation(self, length: int, epoch: int, part: int = 0) -> np.ndarray:
        if not self.shuffle:
            return np.arange(length)
        return np.random.default_rng([self.seed, epoch, part]).permutation(length)

    def _index(self, shard: int) -> list[Entry]:
        path = self.paths[shard]
        entries = index_samples(path)
        if len(entries) != self._counts[shard]:
            raise DataError(
                f"{path} holds {len(entries)} samples, and {stats_path(path).name} says {self._counts[shard]}"
            )
        return entries

    def _read(self, shard: int, entry: Entry, epoch: int) -> Sample:
        path = self.paths[shard]
        where = f"{path}, sample {entry.key}"
        try:
            with path.open("rb") as file:
                image, text, known = (slice_of(file, part) for part in entry[1:])
            metadata = {"key": entry.key} | json_value(known or b"{}")
            words = text.decode()
            picture = load_image(image)
        except OSError as error:
            raise DataError(f"{where}: {error.strerror or error}") from None
        except (ImageError, ValueError, TypeError) as error:
            raise DataError(f"{where}: {error}") from None
        captions = metadata.get("captions")
        if self.shuffle and isinstance(captions, list) and captions and all(isinstance(c, str) for c in captions):
            draw = np.random.default_rng([self.seed, epoch, shard, entry.image[0]])
            words = captions[int(draw.integers(len(captions)))]
        return Sample(picture, words, metadata)


def _shard_paths(source: str | Path | Iterable[str | Path]) -> list[Path]:
    given = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    paths: list[Path] = []
    for path in given:
        inside = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"no shards in {path}: expected .tar files")
        paths += inside
    if not paths:
        raise DataError("no shards given")
    return paths
