"""The command that serves a model over HTTP."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.lm import Base, Chat, Model, Quantize, Tokenizer, load_lm
from seedtok.cli.support import Device, DrawingDtype, Dtype, Precision, drawing_beside
from seedtok.cli.tokenizer import Guidance, LcmLora
from seedtok.core.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI


def serve(
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 is all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The API keys that clients may use, one a line.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts or pictures that are made together.")] = 16,
    queue: Annotated[
        int, typer.Option(min=1, help="Texts or pictures that may wait; beyond them the answer is 429.")
    ] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds that a request may take.")] = 120,
    page: Annotated[bool, typer.Option(help="Serve the web page at /, too; it needs gradio.")] = True,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
    drawing: DrawingDtype = None,
    lcm_lora: LcmLora = None,
    guidance_scale: Guidance = None,
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

    if page and find_spec("gradio") is None:
        raise ConfigError("the web page needs gradio: pip install 'seedtok[serve]', or serve without it: --no-page")

    def application() -> FastAPI:
        lm = load_lm(model, dtype.value, device, base, tokenizer, template, quantize)
        lm.seed.draw_by(lcm_lora=lcm_lora)
        if guidance_scale is not None:
            lm.seed.config = replace(lm.seed.config, guidance_scale=guidance_scale)
        drawn_in = drawing_beside(drawing, dtype, lm.device)
        name = Path(model).name or model if Path(model).is_dir() else model
        return create_app(lm, name, limits, keys, drawn_in, page, hosts)

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
