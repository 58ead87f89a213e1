"""Evaluation sets on disk: what `seedtok data prepare` writes of a public data set, and shards with captions.

A prepared folder holds `entries.jsonl`, a line a picture with its captions or questions, and `dataset.json`, which says
what set it is, where its pictures are, and what its publisher counts. Pictures stay where they are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import DataError, ImageError
from seedtok.core.images import load_image
from seedtok.core.records import json_value
from seedtok.data.entries import Entry, Question, SetInfo
from seedtok.data.held_out import Part, shard_hashes
from seedtok.data.public_sets import public_set, read_public
from seedtok.data.samples import read_sample
from seedtok.data.shard_writer import holds_shards
from seedtok.data.skipping import BadSample
from seedtok.data.tars import Entry as Stored
from seedtok.data.tars import index_samples, shard_paths, slice_of

HEADER, ENTRIES = "dataset.json", "entries.jsonl"
FORMAT, VERSION = "seedtok.evaluation_set", 1


@dataclass(frozen=True)
class Prepared:
    """What was written, and the names of the pictures that are not there, whose entries are left out."""

    info: SetInfo
    missing: tuple[str, ...]


def holds_prepared(folder: Path) -> bool:
    """Whether a folder has a prepared evaluation set in it."""
    return (folder / HEADER).is_file()


def prepare(name: str, annotations: Path, images: Path, split: str, out: Path) -> Prepared:
    """Writes a split of a public data set as an evaluation set; `images` is the folder of its pictures.

    Raises DataError as `read_public` does, and where no picture is there.
    """
    public = public_set(name, split)
    counts = {"pictures": 0, "captions": 0, "questions": 0}
    missing: list[str] = []
    digest = hashlib.sha256()
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / ENTRIES) as temporary, temporary.open("wb") as file:
        for entry in read_public(name, annotations, split):
            if not os.path.isfile(images / entry.image):  # which never raises
                missing.append(entry.image)
                continue
            line = (json.dumps(_record(entry), ensure_ascii=False) + "\n").encode(errors="replace")
            file.write(line)
            digest.update(line)
            counts = _counted(counts, entry)
        if not counts["pictures"]:
            raise DataError(f"{annotations}: nothing of {split} has its picture in {images}")
        info = SetInfo(
            name, split, digest.hexdigest()[:16], counts, public.splits[split], len(missing), public.answer_keys
        )
        header = {"format": FORMAT, "version": VERSION, "images": os.path.abspath(images), **asdict(info)}
        with atomic_file(out / HEADER) as header_file:
            header_file.write_text(json.dumps(header | {"missing": missing}, indent=1), encoding="utf-8")
    return Prepared(info, tuple(missing))


def _counted(counts: dict[str, int], entry: Entry) -> dict[str, int]:
    own = {"pictures": 1, "captions": len(entry.captions), "questions": len(entry.questions)}
    return {name: counts[name] + own[name] for name in counts}


def _record(entry: Entry) -> dict[str, Any]:
    """An entry as JSON, without what it does not have."""
    record = {name: value for name, value in asdict(entry).items() if value not in ("", ())}
    if entry.questions:
        record["questions"] = [{k: v for k, v in asdict(q).items() if v not in ("", ())} for q in entry.questions]
    return record


def _entry(record: dict[str, Any]) -> Entry:
    """The inverse of `_record`."""
    questions = tuple(
        Question(q["id"], q["text"], tuple(q["answers"]), q.get("answer_type", ""), q.get("kind", ""))
        for q in record.get("questions", ())
    )
    captions = tuple(record.get("captions", ()))
    return Entry(record["id"], record["image"], captions, questions, record.get("domain", ""))


# ---------------------------------------------------------------- in


def open_set(source: Path, count: int | None = None) -> PreparedSet | ShardSet:
    """The evaluation set in a folder, of its first `count` pictures alone where that is given.

    Raises DataError for a folder that is neither prepared nor holds shards, or whose files are not whole.
    """
    if not source.exists():
        raise DataError(f"no such folder: {source}; `seedtok data prepare` writes one")
    folder = source.parent if source.name in (HEADER, ENTRIES) else source
    if holds_prepared(folder):
        return PreparedSet(folder, count)
    if source.suffix == ".tar" or (source.is_dir() and holds_shards(source)):
        return ShardSet(source, count)
    raise DataError(
        f"{source} is no evaluation set: expected {HEADER} and {ENTRIES} of `seedtok data prepare`, or .tar shards"
    )


class PreparedSet:
    """A folder that `prepare` wrote; a line is read when its entry is asked for."""

    def __init__(self, folder: Path, count: int | None = None) -> None:
        self.folder = folder
        header = _header(folder / HEADER)
        self.images = folder / header["images"]  # an absolute path stands for itself
        self._offsets, fingerprint = _lines(folder / ENTRIES)
        total = len(self._offsets) - 1
        if fingerprint != header["fingerprint"]:
            raise DataError(
                f"{folder / ENTRIES} is not what `data prepare` wrote: it has {total:,} lines, and {HEADER} says "
                f"{header['counts'].get('pictures'):,} pictures; prepare it again"
            )
        self._count = total if count is None else min(count, total)
        counts = dict(header["counts"])
        if self._count < total:
            counts = dict.fromkeys(counts, 0)
            for entry in self:
                counts = _counted(counts, entry)
        self.info = SetInfo(
            header["name"], header["split"], fingerprint, counts, header["published"], len(header["missing"]),
            tuple(header["answer_keys"]),
        )  # fmt: skip

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Entry:
        if not 0 <= index < self._count:
            raise IndexError(index)
        start, end = self._offsets[index : index + 2]
        with (self.folder / ENTRIES).open("rb") as file:
            file.seek(int(start))
            return _entry(json_value(file.read(int(end - start))))

    def __iter__(self) -> Iterator[Entry]:
        with (self.folder / ENTRIES).open("rb") as file:
            for _ in range(self._count):
                yield _entry(json_value(file.readline()))

    def picture(self, index: int) -> Image.Image:
        return load_image(self.images / self[index].image)


def _header(path: Path) -> dict[str, Any]:
    """What `prepare` says of a set; raises DataError for anything else."""
    kinds = {"name": str, "split": str, "fingerprint": str, "images": str, "counts": dict, "published": dict}
    try:
        header = json_value(path.read_bytes())
        fits = header["format"] == FORMAT and header["version"] == VERSION
        fits = fits and all(isinstance(header[name], kind) for name, kind in kinds.items())
        fits = fits and isinstance(header["missing"], list) and len(header["answer_keys"]) == 2
    except (OSError, ValueError, KeyError, TypeError):
        fits, header = False, {}
    if not fits:
        raise DataError(f"{path} is not of an evaluation set of version {VERSION}: prepare it again")
    return header


def _lines(path: Path) -> tuple[np.ndarray, str]:
    """Where the lines of a file begin, and its end; and the fingerprint of all of it."""
    digest = hashlib.sha256()
    lengths: list[int] = []
    try:
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                lengths.append(len(line))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    return np.array([0, *accumulate(lengths)], dtype=np.int64), digest.hexdigest()[:16]


class ShardSet:
    """Shards with captions, such as `data pack` writes, in their order; samples that are broken show when read.

    Of a `part`, those on its side of the split alone. Raises DataError for no samples, or none on that side.
    """

    def __init__(self, source: Path, count: int | None = None, part: Part | None = None) -> None:
        self._samples: list[tuple[Path, Stored]] = []
        digest = hashlib.sha256(b"" if part is None else repr(part).encode())
        total = 0
        for path in shard_paths(source):
            stored = index_samples(path)
            total += len(stored)
            inside = stored if part is None else [stored[i] for i in part.of(shard_hashes(path))]
            self._samples += [(path, sample) for sample in inside]
            digest.update(f"{path.name}\n".encode(errors="replace"))
            if count is not None and len(self._samples) >= count:
                break
        self._samples = self._samples[:count]
        if not self._samples:
            raise part.nothing_left(source, total) if part else DataError(f"{source}: its shards hold no samples")
        captions = 0
        for (_, sample), entry in zip(self._samples, self, strict=True):
            captions += len(entry.captions)
            digest.update(repr((sample.image, entry.id, entry.image, entry.captions)).encode(errors="replace"))
        counts = {"pictures": len(self._samples), "captions": captions}
        self.info = SetInfo(source.stem, "shards", digest.hexdigest()[:16], counts | {"questions": 0})

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Entry:
        path, stored = self._samples[index]
        try:
            with path.open("rb") as file:
                text = slice_of(file, stored.text).decode(errors="replace")
                known = json_value(slice_of(file, stored.metadata) or b"{}")
        except (OSError, ValueError):
            text, known = "", {}
        known = known if isinstance(known, dict) else {}
        captions = known.get("original_captions") or known.get("captions") or [text]
        if not isinstance(captions, list):
            captions = [captions] if isinstance(captions, str) else [text]
        texts = tuple(caption for caption in captions if isinstance(caption, str) and caption.strip())
        image = known.get("image")
        return Entry(stored.key, image if isinstance(image, str) else "", texts)

    def __iter__(self) -> Iterator[Entry]:
        return (self[index] for index in range(len(self)))

    def picture(self, index: int) -> Image.Image:
        path, stored = self._samples[index]
        try:
            return read_sample(path, stored).image
        except BadSample as error:
            raise ImageError(f"{path}, sample {stored.key}: {error}") from None
