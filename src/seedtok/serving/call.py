"""One request on its way through an endpoint: it ends when its time is up, or its client has gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from PIL import Image

from seedtok.serving.errors import ApiError, ClientGone
from seedtok.serving.pictures import decoded
from seedtok.serving.service import Service
from seedtok.serving.tasks import Outcome, Task

T = TypeVar("T")


@dataclass(eq=False)
class Call:
    """A request whose body has been read. `ends` is on the clock of `time.monotonic`."""

    service: Service
    ends: float
    gone: asyncio.Future[None]  # done once the client has closed the connection

    async def until(self, awaited: asyncio.Future[T]) -> T:
        """What a future gives; raises ApiError when time is up before, ClientGone when the client has gone."""
        left = self.ends - time.monotonic()
        await asyncio.wait({awaited, self.gone}, timeout=max(0, left), return_when=asyncio.FIRST_COMPLETED)
        if awaited.done():
            return awaited.result()
        if self.gone.done():
            raise ClientGone
        raise ApiError(503, f"no answer within {self.service.limits.seconds:g} seconds; try again later", "timeout")

    async def in_thread(self, threads: Executor, function: Callable[..., T], *arguments: object) -> T:
        """Calls a function that takes a while in one of some threads; raises as `until` does."""
        found = asyncio.get_running_loop().run_in_executor(threads, partial(function, *arguments))
        try:
            return await self.until(found)
        finally:
            drop(found)

    async def pictures(self, urls: Sequence[str], param: str) -> list[Image.Image]:
        """The pictures of data URLs, at the ViT's size.

        Raises ApiError for one that is none, for too many, and where too many wait; and as `until` does.
        """
        service, limits = self.service, self.service.limits
        if len(urls) > limits.pictures:
            message = f"{len(urls)} pictures in one request; at most {limits.pictures} are read"
            raise ApiError(400, message, "too_many_images", param)
        if urls and service.unread and service.unread + len(urls) > limits.queue:
            raise ApiError(429, f"{service.unread} pictures wait to be read; try again", "queue_full")
        service.unread += len(urls)
        try:
            square, threads = service.engine.square, service.picture_threads
            return [await self.in_thread(threads, decoded, url, limits, square, param) for url in urls]
        finally:
            service.unread -= len(urls)

    async def work(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Outcomes of tasks, which run with those of other requests.

        Raises ApiError when the queue is full, what a task raises, and as `until` does; then the tasks that are left
        are dropped.
        """
        jobs = self.service.worker.submit(tasks)
        outcomes = asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
        try:
            return await self.until(outcomes)
        finally:
            self.service.worker.abandon(jobs)
            drop(outcomes)


def drop(future: asyncio.Future[Any]) -> None:
    """Cancels a future, and asks for its error, since asyncio complains of those that nobody has asked for."""
    future.cancel()
    future.add_done_callback(lambda future: future.cancelled() or future.exception())


async def _disconnected(request: Request) -> None:
    """Returns once the client has closed the connection; for after its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _call(request: Request) -> AsyncGenerator[Call]:
    """FastAPI asks for it when the body has been read, and closes it when the answer has been sent."""
    service: Service = request.app.state.service
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        yield Call(service, time.monotonic() + service.limits.seconds, gone)
    finally:
        drop(gone)


TheCall = Annotated[Call, Depends(_call)]
