"""The command that serves a model over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.lm import Base, Chat, Model, Quantize, Tokenizer, load_lm
from seedtok.cli.support import Device, DrawingDtype, Dtype, Precision, drawing_beside, load_tokenizer
from seedtok.cli.tokenizer import Guidance, LcmLora
from seedtok.core.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from seedtok.tokenizer.seed import SeedTokenizer


class Only(StrEnum):
    tokenizer = "tokenizer"
    encoder = "encoder"


OnlyPart = Annotated[
    Only | None,
    typer.Option(help="tokenizer: MODEL is an image tokenizer, for /v1/seed alone. encoder: without its decoder."),
]
Host = Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is all of this machine's.")]
KeyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="The API keys that clients may use, one a line.")]
Batch = Annotated[int, typer.Option(min=1, help="Texts or pictures that are made together.")]
Queue = Annotated[int, typer.Option(min=1, help="Texts or pictures that may wait; beyond them the answer is 429.")]
Timeout = Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds that a request may take.")]


def serve(
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: KeyFile = None,
    batch: Batch = 16,
    queue: Queue = 256,
    timeout: Timeout = 120,
    page: Annotated[bool, typer.Option(help="Serve the web page at /, too; it needs gradio.")] = True,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
    drawing: DrawingDtype = None,
    lcm_lora: LcmLora = None,
    guidance_scale: Guidance = None,
    only: OnlyPart = None,
) -> None:
    """Serve a SEED language model over HTTP: a web page, and OpenAI's protocol.

    The page is at /. /v1/chat/completions, /v1/images/generations, /v1/models, /v1/seed/encode, /v1/seed/decode and
    /v1/seed/codes/CODE; /healthz and /metrics. Ctrl-C or SIGTERM finishes what has begun and exits with 130 or 143.
    """
    from seedtok.serving.app import create_app
    from seedtok.serving.guard import read_keys
    from seedtok.serving.limits import Limits
    from seedtok.serving.run import from_short_thread, listening, own_hosts
    from seedtok.serving.run import serve as run

    _check(only, (base, tokenizer, template, quantize), (drawing, lcm_lora, guidance_scale))
    with_page = page and only is None
    if with_page and find_spec("gradio") is None:
        raise ConfigError("the web page needs gradio: pip install 'seedtok[serve]', or serve without it: --no-page")

    def application() -> FastAPI:
        if only is None:
            served = load_lm(model, dtype.value, device, base, tokenizer, template, quantize)
            seed = served.seed
        else:
            served = seed = load_tokenizer(model, dtype.value, device)
        _set_drawing(seed, lcm_lora, guidance_scale)
        drawn_in = None if only is Only.encoder else drawing_beside(drawing, dtype, seed.device)
        name = Path(model).name or model if Path(model).is_dir() else model
        return create_app(served, name, limits, keys, drawn_in, with_page, hosts, only is not Only.encoder)

    limits = Limits(seconds=timeout, queue=queue, batch=batch)
    keys = [] if api_key_file is None else read_keys(api_key_file)
    with listening(host, port) as server_socket:  # before the model is loaded: a port in use is known at once
        hosts = [] if keys else own_hosts(host, server_socket)
        app = from_short_thread(application)
        if not keys and not hosts:
            print(
                f"warning: anyone who reaches {host} may use this server; --api-key-file asks for a key",
                file=sys.stderr,
            )
        run(app, server_socket, limits)


def _check(only: Only | None, of_writing: Sequence[object], of_drawing: Sequence[object]) -> None:
    """Raises ConfigError for options of what is not served."""
    if only is not None and any(given is not None for given in of_writing):
        raise ConfigError("--base, --tokenizer, --template and --quantize are of a language model: leave out --only")
    if only is Only.encoder and any(given is not None for given in of_drawing):
        raise ConfigError("--drawing-dtype, --lcm-lora and --guidance-scale are of drawing: give --only tokenizer")


def _set_drawing(seed: SeedTokenizer, lcm_lora: str | None, guidance_scale: float | None) -> None:
    seed.draw_by(lcm_lora=lcm_lora)
    if guidance_scale is not None:
        seed.config = replace(seed.config, guidance_scale=guidance_scale)
