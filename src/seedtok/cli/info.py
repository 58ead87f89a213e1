"""The command that shows what a checkpoint, or a folder of codes, is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from seedtok.cli.support import load_tokenizer, out, say
from seedtok.core.errors import DataError
from seedtok.core.text import one_line

if TYPE_CHECKING:
    from torch import nn

    from seedtok.core.kinds import Kind


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="'mini', a folder of a checkpoint or of codes, or a hub id.")
    ] = "mini",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the kind, the sizes and the numbers of parameters of a checkpoint, or what codes were made with."""
    from seedtok.core.kinds import TOKENIZER, kind_of

    kind = None if model == "mini" else kind_of(Path(model))
    if kind is not None and kind.format != TOKENIZER:
        _describe(Path(model), kind, as_json)
        return
    if kind is None and _holds_codes(Path(model)):
        _describe_codes(Path(model), as_json)
        return
    tokenizer = load_tokenizer(model)
    from seedtok.core.hub import local_folder

    config = tokenizer.config
    parts: dict[str, nn.Module] = {}
    for name, part in tokenizer.named_children():
        if name == "familiarity":  # statistics, not a network
            continue
        children = dict(part.named_children()) if name == "embedder" else {}
        parts |= {f"{name}.{child}": module for child, module in children.items()} or {name: part}
    decoder = local_folder(tokenizer.image_decoder_source, "diffusion")
    if decoder is not None and decoder.is_dir():  # one on a hub is not downloaded for this
        pipeline = tokenizer.image_decoder.pipeline
        parts |= {f"image_decoder.{name}": getattr(pipeline, name) for name in ("text_encoder", "unet", "vae")}
    rows = {
        name: {
            "parameters": sum(p.numel() for p in part.parameters()),
            "bytes": sum(t.numel() * t.element_size() for t in part.state_dict().values()),
        }
        for name, part in parts.items()
    }
    sizes = {
        "image_size": config.embedder.vision.image_size,
        "codes": config.embedder.qformer.queries,
        "codebook_size": config.codebook.size,
        "codebook_dim": config.codebook.dim,
        "image_decoder": config.image_decoder,
        "codebook": tokenizer.codebook_id,
        "encoder": tokenizer.encoder_fingerprint,
    }
    if as_json:
        print(json.dumps({"model": model, **sizes, **_total(rows), "parts": rows}))
        return
    for name, value in sizes.items():
        say(f"{name.replace('_', ' ')}: {one_line(str(value))}")
    _show_parts(rows)


def _describe(folder: Path, kind: Kind, as_json: bool) -> None:
    """Shows the kind and the size of a checkpoint that is not a tokenizer, and what to do with it next."""
    from seedtok.core.kinds import stored_parts

    rows = {} if kind.format == "run" else stored_parts(folder)
    if as_json:
        record = {"model": str(folder), "kind": kind.name, "next": kind.next}
        print(json.dumps({**record, **_total(rows), "parts": rows}))
        return
    say(f"{folder} is {kind.name}")
    if rows:
        _show_parts(rows)
    say(kind.next)


def _holds_codes(source: Path) -> bool:
    return next(source.rglob("*.parquet"), None) is not None if source.is_dir() else source.suffix == ".parquet"


def _describe_codes(source: Path, as_json: bool) -> None:
    """Shows how many images codes are of, and what made them: ids and dtypes as `seedtok tokenize` writes them."""
    from seedtok.data.codes import code_files
    from seedtok.data.origins import origin_of
    from seedtok.data.skipping import read_skipped

    paths = code_files(source)
    origins = [origin_of(path) for path in paths]
    for path, origin in zip(paths, origins, strict=True):
        if not origin.codebook:
            raise DataError(
                f"{path} does not say which tokenizer its codes are of: `seedtok tokenize` writes such files"
            )
    sizes = {
        "images": sum(origin.rows for origin in origins),
        "files": len(paths),
        "skipped": sum(len(read_skipped(path)) for path in paths),
    }
    made_by = {
        name: sorted({value for origin in origins if (value := getattr(origin, name))})
        for name in ("codebook", "encoder", "dtype")
    }
    if as_json:
        print(json.dumps({"codes": str(source), **sizes, **made_by}))
        return
    for name, count in sizes.items():
        say(f"{name}: {count:,}")
    for name, values in made_by.items():
        say(f"{name}: {', '.join(map(one_line, values)) or 'not said'}")


def _total(rows: dict[str, dict[str, int]]) -> dict[str, int]:
    return {key: sum(row[key] for row in rows.values()) for key in ("parameters", "bytes")}


def _show_parts(rows: dict[str, dict[str, int]]) -> None:
    table = Table("part", "parameters", "MB")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in (rows | {"total": _total(rows)}).items():
        table.add_row(Text(one_line(name)), f"{row['parameters']:,}", f"{row['bytes'] / 1e6:.1f}")
    out.print(table)
