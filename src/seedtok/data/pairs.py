"""Readers of image-text pairs: a folder, a table (CSV, TSV, JSONL, JSON), or a COCO captions file."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from seedtok.core.errors import DataError
from seedtok.core.image_search import find_images
from seedtok.core.records import json_value

IMAGE_COLUMNS = ("image", "path", "file", "filepath", "file_name")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")


@dataclass(frozen=True)
class Pair:
    """An image with its captions; `name` is that in the source, `problem` the reason why it cannot be used, if any.

    `columns` are what else a table says of it, by their names.
    """

    name: str
    path: Path
    captions: tuple[str, ...]
    problem: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


def read_pairs(
    source: Path, captions: Path | None = None, images: Path | None = None, needs_caption: bool = True
) -> Iterator[Pair]:
    """All images of `source` with their captions, unchanged; the arguments are those of `pack.pack`.

    Unless `needs_caption`, to have no captions is no problem of an image, but to have some that cannot be read is.
    """
    if captions is not None:
        if images is not None or not source.is_dir():
            raise DataError(f"the source is {source}; expected the folder of the images, as there is a captions file")
        source, images = captions, source
    if not source.exists():
        raise DataError(f"no such file or folder: {source}")
    if source.is_dir():
        return _folder(source, needs_caption)
    if images is not None and not images.is_dir():
        raise DataError(f"no such folder of images: {images}")
    base = source.parent if images is None else images
    suffix = source.suffix.lower()
    if suffix == ".jsonl":
        return _rows(_jsonl(source), source, base, needs_caption)
    if suffix in (".csv", ".tsv"):
        return _rows(_csv(source, tab=suffix == ".tsv"), source, base, needs_caption)
    if suffix != ".json":
        raise DataError(f"{source}: expected a folder, .csv, .tsv, .jsonl, .json, or a COCO captions .json")
    content = parse_json(read_text(source), str(source))
    if isinstance(content, list):
        return _rows(iter(content), source, base, needs_caption)
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise DataError(f"{source}: expected a list of records, or a COCO file with images and annotations")
    return _coco(content, source, base, needs_caption)


def _folder(folder: Path, needs_caption: bool) -> Iterator[Pair]:
    found = find_images(folder)
    for path, reason in found.ignored:
        yield Pair(str(path.relative_to(folder)), path, (), reason)
    for path in found.images:
        name, beside = str(path.relative_to(folder)), path.with_suffix(".txt")
        if not beside.is_file():
            yield Pair(name, path, (), f"no {beside.name} beside it" if needs_caption else None)
            continue
        try:
            yield Pair(name, path, (beside.read_text("utf-8-sig"),))
        except (OSError, UnicodeDecodeError):
            yield Pair(name, path, (), f"{beside.name} cannot be read as UTF-8 text")


def _rows(records: Iterator[Any], source: Path, base: Path, needs_caption: bool) -> Iterator[Pair]:
    first = next(records, None)
    if not isinstance(first, dict):
        raise DataError(f"{source} has no records; expected some with an image and a caption")
    image, caption = _column(first, IMAGE_COLUMNS), _column(first, CAPTION_COLUMNS)
    for column, names in ((image, IMAGE_COLUMNS), (caption, CAPTION_COLUMNS if needs_caption else ())):
        if names and column is None:
            has = ", ".join(map(str, first)) or "none"
            hint = "; --no-captions does without" if names == CAPTION_COLUMNS else ""
            raise DataError(f"{source}: no column {', '.join(names[:-1])} or {names[-1]}; it has {has}{hint}")
    for number, record in enumerate(chain([first], records), start=1):
        record = record if isinstance(record, dict) else {}
        name, text = (None if column is None else record.get(column) for column in (image, caption))
        texts = text if isinstance(text, list) else [] if text is None and not needs_caption else [text]
        if not isinstance(name, str) or not name.strip():
            yield Pair(f"record {number}", base, (), f"no text under {image!r}")
        elif not all(isinstance(t, str) for t in texts):
            yield Pair(name, base, (), f"no text under {caption!r}")
        else:
            others = {column: value for column, value in record.items() if column not in (image, caption, None)}
            yield Pair(name, base / name.strip(), tuple(map(str, texts)), columns=others)


def _column(record: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The column of a record that has the first of the names that it has; None where it has none of them."""
    known = {str(column).strip().lower(): column for column in record}
    return next((known[name] for name in names if name in known), None)


def _csv(source: Path, tab: bool) -> Iterator[dict[str, Any]]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            # tab-separated files have no quoting: a single quote must not join lines
            yield from csv.DictReader(
                file, delimiter="\t" if tab else ",", quoting=csv.QUOTE_NONE if tab else csv.QUOTE_MINIMAL
            )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {source}: {error}") from None


def _jsonl(source: Path) -> Iterator[Any]:
    try:
        with source.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield parse_json(line, f"{source}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {source}: {error}") from None


def read_text(source: Path) -> str:
    """The text of a UTF-8 file; raises DataError where it cannot be read."""
    try:
        return source.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {source}: {error}") from None


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; raises DataError, which names `where`, for invalid JSON."""
    try:
        return json_value(text)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from None


def _coco(content: dict[str, Any], source: Path, base: Path, needs_caption: bool) -> Iterator[Pair]:
    try:
        texts: dict[Any, list[str]] = defaultdict(list)
        for annotation in content["annotations"]:
            said = texts[annotation["image_id"]]
            if isinstance(caption := annotation["caption"], str):
                said.append(caption)
        names = dict[Any, str]()
        for image in content["images"]:
            name = str(image["file_name"])
            if names.setdefault(image["id"], name) != name:
                raise DataError(f"{source}: image {image['id']} is both {names[image['id']]} and {name}")
    except KeyError as error:
        raise DataError(f"{source}: not a COCO captions file; an entry lacks {error}") from None
    except TypeError as error:
        raise DataError(f"{source}: not a COCO captions file ({error})") from None
    for key, name in names.items():
        found = tuple(texts.pop(key, ()))
        problem = None if found or not needs_caption else "it has no captions in the annotations"
        yield Pair(name, base / name, found, problem)
    for key in texts:
        yield Pair(f"image {key}", base, (), "it has captions, but is not listed under images")
