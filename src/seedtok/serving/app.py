"""The server as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import torch
from fastapi import FastAPI

from seedtok.lm.seed_lm import SeedLM
from seedtok.serving import chat, images, status
from seedtok.serving.engine import Engine
from seedtok.serving.errors import handle_errors
from seedtok.serving.guard import Guard, Keys
from seedtok.serving.limits import Limits
from seedtok.serving.metrics import Metrics
from seedtok.serving.service import Service
from seedtok.serving.worker import Worker
from seedtok.tokenizer.seed import SeedTokenizer

LIMITS = Limits()


def create_app(
    model: SeedLM | SeedTokenizer,
    name: str = "mini",
    limits: Limits = LIMITS,
    keys: Sequence[str] = (),
    drawing_dtype: torch.dtype | None = None,
    with_page: bool = False,
    hosts: Sequence[str] = (),
    draws: bool = True,
) -> FastAPI:
    """OpenAI's protocol over a model, which clients call `name`; an image tokenizer encodes, and decodes if it `draws`.

    Without `keys` anyone may use it; with `hosts`, only requests to these names are answered, and none from web pages
    of others. `drawing_dtype` is what the image decoder computes in, as for `SeedTokenizer.decode`. `with_page` adds
    the web page at `/`, which needs gradio. The thread that runs the model starts and ends with the application's
    lifespan.
    """
    metrics = Metrics()
    engine = Engine(model.eval(), limits.batch, drawing_dtype, draws)
    service = Service(engine, name, limits, metrics, Worker(engine, limits.queue, metrics))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            service.close()

    app = FastAPI(title="seedtok", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    for part in (chat, images, status):
        app.include_router(part.router)
    if with_page:
        from seedtok.serving.page.mount import add_page

        add_page(app)
    handle_errors(app)
    app.add_middleware(Guard, limits=limits, metrics=metrics, keys=Keys(keys), hosts=hosts)
    return app
