"""One piece of work whose texts and pictures are passed on while they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from PIL import Image
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seedtok.serving.call import Call, drop
from seedtok.serving.tasks import Outcome, Task
from seedtok.serving.worker import Job


class Stream:
    """Pieces of text and pictures from the worker's thread, in order, and then the outcome of the work."""

    def __init__(self, call: Call):
        self.call = call
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | Image.Image | None] = asyncio.Queue()  # None is the end
        self._jobs: list[Job] = []

    def put(self, piece: str | Image.Image) -> None:
        """Takes a piece, from any thread."""
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def start(self, task: Task) -> str | Image.Image | Outcome:
        """Puts a task in the queue and waits for what `next` returns first."""
        self._jobs = self.call.service.worker.submit([task])
        self._outcome = asyncio.wrap_future(self._jobs[0].future)
        self._outcome.add_done_callback(lambda _: self._pieces.put_nowait(None))
        try:
            return await self.next()
        except BaseException:
            self.drop()
            raise

    async def next(self) -> str | Image.Image | Outcome:
        """The next piece, or the outcome once there is none left; raises as `Call.work` does."""
        piece = asyncio.ensure_future(self._pieces.get())
        try:
            found = await self.call.until(piece)
            return self._outcome.result() if found is None else found
        finally:
            piece.cancel()

    def drop(self) -> None:
        """Ends the work, if it has not ended."""
        self.call.service.worker.abandon(self._jobs)
        drop(self._outcome)


class EventStream(Response):
    """Server-sent events as they are made, by a generator that ends by itself when the client goes."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str]):
        self.status_code, self.background = 200, None
        self.events = events
        self.init_headers({"cache-control": "no-cache"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self.events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
