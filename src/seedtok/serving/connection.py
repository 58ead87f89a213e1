"""Connections of clients: those that send no request, or do not read its answer, are closed."""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 672  # at once: more than requests may be open, and with those below fewer than the 1024 files of a process
WAITING = 100  # that wait to be accepted, and are accepted together before the first of them can be closed
HEAD_SECONDS = 10.0  # to send the line and headers of a request
STUCK_SECONDS = 30.0  # to read an answer, and more for a large one
SLOWEST = 1 << 16  # bytes of it a second


class Connection(H11Protocol):
    """uvicorn's, with limits on its number and its time."""

    _head: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > MOST:
            self.transport.abort()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        seconds = STUCK_SECONDS + self.transport.get_write_buffer_size() / SLOWEST
        self._stuck = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck:
            self._stuck.cancel()

    def _expect_head(self) -> None:
        """Starts the time of a request's headers, unless it runs, or ends it once they are there."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self.transport.is_closing():
            self._cancel()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _cancel(self) -> None:
        if self._head:
            self._head.cancel()
            self._head = None
