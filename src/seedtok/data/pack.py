"""Image-text pairs as WebDataset shards in img2dataset's layout.

A shard `00000.tar` holds, for every sample, KEY.png or KEY.jpg, KEY.txt (the caption) and KEY.json (all that
is known); `00000_stats.json` beside it holds its counts.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from seedtok.core.errors import DataError, ImageError
from seedtok.core.text import clean_caption
from seedtok.data.pairs import Pair, read_pairs
from seedtok.data.shard_writer import ShardReport, writing
from seedtok.data.stored import stored_bytes

Progress = Callable[[int], object]  # called after each sample with the number handled so far


def pack(
    source: str | Path,
    out: str | Path,
    *,
    captions: str | Path | None = None,
    images: str | Path | None = None,
    size: int | None = None,
    shard_size: int = 1000,
    progress: Progress | None = None,
    needs_caption: bool = True,
) -> ShardReport:
    """People's own pictures as shards.

    `source` is a folder in which each image has a .txt of its name beside it; or a .csv, .tsv, .jsonl or
    .json table with an image column (image, path, file, filepath or file_name) and a caption column (caption,
    captions, text or title; in JSON, a list of captions is fine), as `data prepare` lists them; or a COCO captions
    .json. Image names are relative to
    the folder `images`, else to the file's own. A folder with its table as `captions` says the same the other
    way round.

    With `size`, the shorter side is reduced to it (never enlarged). A JPEG that needs neither that, nor
    turning, nor a conversion keeps its bytes; anything else is stored as PNG. A picture with several captions
    is one sample: its text is the first, and `captions` in its JSON has all, of which `ShardSamples` draws
    one an epoch. The JSON also has key, caption, original_captions (as they were before `clean_caption`),
    image, width and height, and as `columns` what else its row of a table says. Missing or broken images and
    empty captions are skipped and reported. Unless a picture `needs_caption`, one without is not: its sample has
    neither .txt nor "caption", and a table may lack a column of captions. Raises DataError for a size out of range, for
    a folder that holds shards already, and when nothing is left.
    """
    pairs = read_pairs(Path(source), _path(captions), _path(images), needs_caption)
    return pack_pairs(
        pairs, out, str(source), size=size, shard_size=shard_size, progress=progress, needs_caption=needs_caption
    )


def pack_pairs(
    pairs: Iterable[Pair],
    out: str | Path,
    source: str,
    *,
    size: int | None = None,
    shard_size: int = 1000,
    progress: Progress | None = None,
    needs_caption: bool = True,
) -> ShardReport:
    """Pictures with their captions as shards, as `pack` writes them; `source` is what an error calls them."""
    if size is not None and size < 1:
        raise DataError(f"expected a size of at least 1 pixel, not {size}")
    with writing(Path(out), shard_size) as writer:
        for number, pair in enumerate(pairs, start=1):
            cleaned = tuple(filter(None, map(clean_caption, pair.captions)))
            problem = pair.problem or ("an empty caption" if needs_caption and not cleaned else None)
            if problem:
                writer.skip(pair.name, problem, "failed_to_download")
            else:
                try:
                    stored, suffix, (width, height) = stored_bytes(pair.path, size)
                except ImageError as error:
                    known = "failed_to_resize" if os.path.isfile(pair.path) else "failed_to_download"
                    writer.skip(pair.name, str(error), known)
                else:
                    record = {"captions": cleaned, "original_captions": pair.captions} if cleaned else {}
                    record |= {"image": pair.name, "width": width, "height": height}
                    if pair.columns:
                        record["columns"] = dict(pair.columns)
                    writer.add(stored, suffix, cleaned[0] if cleaned else None, record)
            if progress:
                progress(number)
        if not writer.written:
            reason = f"; the first: {': '.join(writer.skipped[0])}" if writer.skipped else ""
            hint = "; --no-captions packs those without a caption" if needs_caption else ""
            raise DataError(f"{source}: none of its {len(writer.skipped)} pictures can be packed{reason}{hint}")
    return writer.report(Path(out))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
