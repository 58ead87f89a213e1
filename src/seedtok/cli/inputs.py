"""Inputs of the commands: images, of which unreadable ones are skipped, and codes, of which all must be valid."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seedtok.cli.support import err, fail
from seedtok.core.errors import DataError, ImageError
from seedtok.core.records import json_value
from seedtok.core.text import one_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from seedtok.tokenizer.seed import SeedTokenizer

# ---------------------------------------------------------------- images


def list_image_files(images: list[Path], bad: list[ImageError]) -> list[Path]:
    """The image files of all arguments; errors are added to `bad`, and raised where there are no images."""
    from seedtok.core.image_search import find_images

    paths: dict[Path, None] = {}
    for given in images:
        try:
            found = find_images(given)
        except ImageError as error:
            bad.append(error)
            continue
        paths |= dict.fromkeys(found.images)
        bad += [ImageError(f"{path}: {reason}") for path, reason in found.ignored]
    if not paths:
        _raise_bad(bad)
    return list(paths)


def encoded(
    tokenizer: SeedTokenizer,
    paths: list[Path],
    batch_size: int,
    bad: list[ImageError],
    done: Callable[[int], None],
) -> Iterator[tuple[list[Path], torch.Tensor]]:
    """Batches of paths with their codes (B, 32); errors of unreadable images are added to `bad`.

    A SeedTokWarning names images that are far from those of training. Raises ImageError where no image can be read.
    """
    from seedtok.core.cores import reading_threads
    from seedtok.core.images import load_image
    from seedtok.data.ahead import in_order
    from seedtok.tokenizer.familiarity import encode_and_check, warn_of_far_images

    square = tokenizer.config.embedder.vision.square

    def read(path: Path) -> Image.Image | ImageError:
        try:
            return square(load_image(path))
        except ImageError as error:
            return error
        except MemoryError:
            return ImageError(f"{path}: not enough memory to read it; reduce its size")

    far: list[str] = []
    names: list[Path] = []
    images: list[Image.Image] = []
    any_read = False
    for number, image in enumerate(in_order(read, paths, reading_threads(tokenizer.device.type)), start=1):
        if isinstance(image, ImageError):
            bad.append(image)
        else:
            names.append(paths[number - 1])
            images.append(image)
        if names and (len(names) == batch_size or number == len(paths)):
            codes, is_far = encode_and_check(tokenizer, tokenizer.pixels(images))
            far += [str(name) for name, flag in zip(names, is_far.tolist(), strict=True) if flag]
            yield names, codes
            names, images, any_read = [], [], True
            done(number)
    if not any_read:
        _raise_bad(bad)
    warn_of_far_images(far)


def _raise_bad(bad: list[ImageError]) -> None:
    if len(bad) == 1:
        raise bad[0]
    raise ImageError(f"none of {len(bad)} inputs is an image; the first: {bad[0]}")


def report(bad: list[ImageError]) -> None:
    """Prints the skipped inputs, and exits with 1 if there are any."""
    if bad:
        for error in bad:
            err.print(f"skipped: {error}", soft_wrap=True, markup=False)
        fail(f"{len(bad)} skipped; the others are done")
        raise typer.Exit(1)


# ---------------------------------------------------------------- codes

Row = tuple[str, str, list[int], str | None]  # its place in the input, name of the image, codes, id of the codebook


def typed_codes(text: str) -> list[Row]:
    """The integers of `--codes`; raises DataError for anything else."""
    try:
        return [("--codes", "codes", [int(word) for word in text.replace(",", " ").split()], None)]
    except ValueError:
        shown = text if len(text) <= 80 else f"{text[:80]}..."
        raise DataError(f"--codes: expected integers, not {shown!r}") from None


def codes_of_file(file: Path, count: int | None = None) -> list[Row]:
    """The first `count` codes of what `encode --json` prints, or of what `tokenize` writes; raises DataError."""
    stored = file.suffix == ".parquet" or file.is_dir()
    return codes_of_parquet(file, count) if stored else codes_of_lines(file)[:count]


def codes_of_parquet(source: Path, count: int | None = None) -> list[Row]:
    """The first `count` codes in a Parquet file, or in those of a folder; raises DataError where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from seedtok.data.codes import code_files
    from seedtok.data.origins import origin_of

    rows: list[Row] = []
    for path in code_files(source):
        codebook = origin_of(path).codebook or None
        try:
            for batch in pq.ParquetFile(path).iter_batches(min(count or 4096, 4096), columns=["key", "codes"]):
                for record in batch.to_pylist():
                    if len(rows) == count:
                        return rows
                    rows.append((f"{path}, row {len(rows) + 1}", str(record["key"]), record["codes"], codebook))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise DataError(f"{path}: no codes as `seedtok tokenize` writes them: {one_line(str(error))}") from None
    if not rows:
        raise DataError(f"no codes in {source}: expected .parquet files, as `seedtok tokenize` writes them")
    return rows


def codes_of_lines(file: Path) -> list[Row]:
    """The lines of `encode --json`, from a file or stdin; raises DataError, which names the line, for anything else."""
    is_stdin = str(file) == "-"
    name = "stdin" if is_stdin else str(file)
    try:
        text = sys.stdin.read() if is_stdin else file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{name}: not UTF-8 text; expected what `seedtok encode --json` prints") from None
    lines = [(f"{name}, line {n}", line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{name}: empty; expected what `seedtok encode --json` prints")
    return [_row(where, line) for where, line in lines]


def _row(where: str, line: str) -> Row:
    try:
        record: Any = json_value(line)
    except ValueError:
        raise DataError(f'{where}: not JSON; expected {{"image": path, "codes": [integers]}}') from None
    if not isinstance(record, dict) or not isinstance(record.get("codes"), list):
        raise DataError(f'{where}: expected {{"image": path, "codes": [integers]}}')
    codes = record["codes"]
    if not all(type(code) is int for code in codes):
        raise DataError(f"{where}: expected codes that are integers")
    name = record.get("image", "image.png")
    if not isinstance(name, str):
        raise DataError(f"{where}: the image is {json.dumps(name)[:80]}; expected a path")
    codebook = record.get("codebook")
    if codebook is not None and not isinstance(codebook, str):
        raise DataError(f"{where}: the codebook is {json.dumps(codebook)[:80]}; expected an id")
    return where, name, codes, codebook


def check_codebook(rows: list[Row], codebook: str, model: str) -> None:
    """Raises DataError, which names the line, for codes of another codebook than the model's."""
    for where, _, _, own in rows:
        if own not in (None, codebook):
            raise DataError(
                f"{where}: codes of codebook {own}; expected {codebook}, that of --model {model}: "
                "give the model that encoded them"
            )
