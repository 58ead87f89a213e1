"""Adds the page to an application."""

from __future__ import annotations

import re
from importlib.resources import files
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import PurePath

import gradio as gr
from fastapi import FastAPI, HTTPException, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seedtok.serving.page.layout import build
from seedtok.serving.page.paths import FOLDER, GRADIO, is_page

KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PASSED = (b"host", b"accept-encoding", b"if-none-match", b"x-forwarded-proto", b"x-forwarded-host")
HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9_.-]{1,255})|\[(?P<address>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?")
FONTS = ("system-ui", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")  # of the reader's machine
MONOSPACE = ("ui-monospace", "DejaVu Sans Mono", "monospace")


def add_page(app: FastAPI) -> None:
    """Has an application serve the page at `/`; its `state` has the service.

    Of gradio's own paths only those of `paths.GRADIO` exist, for GET: no upload, no file of a client's choice, no
    event and no queue.
    """
    gradio = Gradio(_gradio(app.state.service.engine.code_count))
    for path in GRADIO:
        app.add_route(path, gradio, methods=["GET"], include_in_schema=False)  # pyright: ignore[reportArgumentType]
    app.add_route(f"{FOLDER}/{{name}}", _file, methods=["GET"], include_in_schema=False)


def _gradio(code_count: int) -> ASGIApp:
    """Gradio's application: the layout alone."""
    theme = gr.themes.Base(primary_hue="emerald", font=FONTS, font_mono=MONOSPACE)
    return gr.mount_gradio_app(
        FastAPI(), build(code_count), "/", footer_links=[], run_history=False, ssr_mode=False, mcp_server=False,
        pwa=False, enable_monitoring=False, theme=theme, head=f'<link rel="stylesheet" href="{FOLDER[1:]}/style.css">',
    )  # fmt: skip


async def _file(request: Request) -> Response:
    """A script or style sheet of the page's own."""
    known = {file.name: file for file in (files("seedtok.serving.page") / "static").iterdir()}
    found = known.get(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    kind = KINDS[PurePath(found.name).suffix]
    return Response(found.read_bytes(), media_type=kind, headers={**HEADERS, "Cache-Control": "no-cache"})


class Gradio:
    """Gradio's application, which sees of a request its path and a few headers.

    Queries can name states on disk, and gradio lets the pages of other origins read its answers: neither is passed on.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_page(scope["path"]):
            raise HTTPException(404)
        headers = [(name, value) for name, value in scope["headers"] if name in PASSED]
        if not all(_is_host(value.decode("latin-1")) for name, value in headers if name.endswith(b"host")):
            raise HTTPException(400, "the request does not name a host")
        await self.app({**scope, "query_string": b"", "headers": headers}, receive, _with_headers(send))


def _is_host(given: str) -> bool:
    """Whether a header's value is a host's name or address, with a port or without."""
    found = HOST.fullmatch(given)
    if found is None or int(found["port"] or 0) > 65535:
        return False
    try:
        if found["address"]:
            IPv6Address(found["address"])
        elif set(found["name"]) <= set("0123456789."):
            IPv4Address(found["name"])
    except AddressValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *added]
        await send(message)

    return answer
