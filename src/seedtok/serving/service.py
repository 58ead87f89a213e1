"""What the endpoints share: the model's name, the limits, and the way from a request to the worker and back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar

import anyio
from anyio import to_thread
from fastapi import Depends, Request
from PIL import Image

from seedtok.serving.engine import Engine
from seedtok.serving.errors import ApiError, ClientGone
from seedtok.serving.limits import Limits
from seedtok.serving.metrics import Metrics
from seedtok.serving.pictures import decoded
from seedtok.serving.tasks import Outcome, Task
from seedtok.serving.worker import Job, Worker

T = TypeVar("T")
DECODERS = 4  # threads that read and write pictures: each may hold a large one


@dataclass
class Service:
    """One model behind one queue."""

    engine: Engine
    name: str
    limits: Limits
    metrics: Metrics
    worker: Worker
    created: int = field(default_factory=lambda: int(time.time()))
    threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(DECODERS))

    # ------------------------------------------------------------ what is asked for

    def check_model(self, name: str | None) -> None:
        """Raises ApiError, 404, for another model than the one that is served; None is that one."""
        if name not in (None, self.name):
            raise ApiError(404, f"no model {name!r} here; this server has {self.name!r}", "model_not_found", "model")

    def check_prompt(self, text: str, param: str) -> None:
        """Raises ApiError, 400, for an empty prompt or one beyond the limit."""
        if not text.strip():
            raise ApiError(400, "an empty prompt: say what to write or draw", "invalid_value", param)
        if len(text) > self.limits.prompt_chars:
            message = f"a prompt of {len(text):,} characters; at most {self.limits.prompt_chars:,} are read"
            raise ApiError(400, message, "prompt_too_long", param)

    def check_chat(self, texts: Sequence[str], param: str) -> None:
        """Raises ApiError, 400, where the texts of a chat are together beyond the limit."""
        if (length := sum(map(len, texts))) > self.limits.chat_chars:
            message = f"a chat of {length:,} characters; at most {self.limits.chat_chars:,} are read: shorten it"
            raise ApiError(400, message, "prompt_too_long", param)

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Calls a function that takes a while in a thread of a small pool."""
        return await to_thread.run_sync(partial(function, *arguments), limiter=self.threads)

    async def pictures(self, urls: Sequence[str], param: str) -> list[Image.Image]:
        """The pictures of data URLs, at the ViT's size; raises ApiError for one that is none, or for too many."""
        if len(urls) > self.limits.pictures:
            message = f"{len(urls)} pictures in one request; at most {self.limits.pictures} are read"
            raise ApiError(400, message, "too_many_images", param)
        return [await self.in_thread(decoded, url, self.limits, self.engine.side, param) for url in urls]

    # ------------------------------------------------------------ work

    async def work(self, request: Request, tasks: Sequence[Task]) -> list[Outcome]:
        """Outcomes of tasks, which run with those of other requests.

        Raises ApiError when the queue is full or time is up, ClientGone when the client has gone, and what a task
        raises; then the tasks that are left are dropped.
        """
        jobs = self.worker.submit(tasks)
        outcomes = asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
        gone = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait({outcomes, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if outcomes.done():
                return outcomes.result()
            raise ClientGone if gone.done() else self.too_slow()
        finally:
            self.drop(jobs, outcomes, gone)

    def drop(self, jobs: Sequence[Job], *waiting: asyncio.Future[Any]) -> None:
        """Abandons jobs that are not done, and those who wait for them."""
        self.worker.abandon(jobs)
        for future in waiting:
            future.cancel()
            future.add_done_callback(_seen)

    def too_slow(self) -> ApiError:
        """What is raised when a request's time is up."""
        return ApiError(503, f"no answer within {self.limits.seconds:g} seconds; try again later", "timeout")


def _seen(future: asyncio.Future[Any]) -> None:
    """Asks for the error of a future, since asyncio complains of those that nobody has asked for."""
    if not future.cancelled():
        future.exception()


async def disconnected(request: Request) -> None:
    """Returns once the client has closed the connection; for after its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def new_seed(given: int | None) -> int:
    """A seed that was asked for, as torch takes it, or a new one."""
    return secrets.randbelow(2**31) if given is None else given % 2**63


def _service(request: Request) -> Service:
    return request.app.state.service


TheService = Annotated[Service, Depends(_service)]
