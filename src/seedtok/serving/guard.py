"""What every request passes before the endpoints: its key, limits on bodies, a line in the log, counters."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seedtok.core.errors import ConfigError
from seedtok.serving.errors import ApiError, body_of
from seedtok.serving.limits import Limits
from seedtok.serving.metrics import Metrics
from seedtok.serving.page.paths import is_page

logger = logging.getLogger(__name__)
OPEN_PATHS = ("/healthz",)  # asked for without a key, and answered also where too many requests are open


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one a line; raises ConfigError for a file without any, or with a short or unprintable one."""
    try:
        keys = [line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: keys are ASCII text, one a line") from None
    if not keys:
        raise ConfigError(f"{path} has no key: write one a line")
    if any(len(key) < 8 or not key.isprintable() or " " in key for key in keys):
        raise ConfigError(f"{path}: a key has at least 8 characters and no spaces")
    return keys


class Keys:
    """The keys that clients may use; all are compared, in a time that does not depend on what was given."""

    def __init__(self, keys: Sequence[str]):
        self._hashes = [self._hash(key.encode()) for key in keys]

    @staticmethod
    def _hash(key: bytes) -> bytes:
        return hashlib.sha256(key).digest()

    def admit(self, key: str) -> bool:
        """Whether a key is one of them, or none is needed."""
        given = self._hash(key.encode("utf-8", "surrogateescape"))
        found = [hmac.compare_digest(given, known) for known in self._hashes]
        return not found or any(found)


@dataclass
class _Exchange:
    """One request and its answer."""

    scope: Scope
    started: float = field(default_factory=time.monotonic)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: int = 0
    body_bytes: int = 0

    @property
    def path(self) -> str:
        """The path as its endpoint has it, so that there are few of them."""
        return getattr(self.scope.get("route"), "path", None) or "other"


class Guard:
    """An ASGI application before another one."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, keys: Keys):
        self.app, self.limits, self.metrics, self.keys = app, limits, metrics, keys
        self.open = self.held = 0  # requests, and bytes of their bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope)
        self.open += 1
        self.metrics.open.set(self.open)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode())]
            await send(message)

        try:
            if refused := self._refusal(Headers(scope=scope), scope["path"]):
                more = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(refused.status, {})
                await JSONResponse(body_of(refused), refused.status, more)(scope, receive, answer)
            else:
                await self.app(scope, self._limited(receive, exchange), answer)
        except BaseException:
            exchange.status = exchange.status or 500
            raise
        finally:
            self.open -= 1
            self.held -= exchange.body_bytes
            self._note(exchange)

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        """Why a request is not let in, if it is not."""
        is_open = path in OPEN_PATHS
        if not is_open and not is_page(path):  # the files of the page ask for a key themselves
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if not self.keys.admit(key.strip() if scheme.lower() == "bearer" else ""):
                return ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", "invalid_api_key")
        if not is_open and self.open > self.limits.requests:
            return ApiError(429, f"{self.limits.requests} requests are open; try again", "too_many_requests")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > self.limits.body_bytes:
            return ApiError(413, f"a body has at most {self.limits.body_bytes:,} bytes", "too_large")
        return None

    def _limited(self, receive: Receive, exchange: _Exchange) -> Receive:
        """Receives a body within the limits of its size and time; raises HTTPException beyond them."""
        is_over = False

        async def limited() -> Message:
            nonlocal is_over
            if is_over:
                return await receive()
            left = exchange.started + self.limits.body_seconds - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, left))
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            is_over = not message.get("more_body", False)
            size = len(message.get("body", b""))
            exchange.body_bytes += size
            self.held += size
            if exchange.body_bytes > self.limits.body_bytes:
                raise HTTPException(413, f"a body has at most {self.limits.body_bytes:,} bytes")
            if self.held > self.limits.total_bytes:
                raise HTTPException(429, "too many large requests at once; try again", {"Retry-After": "1"})
            return message

        return limited

    def _note(self, exchange: _Exchange) -> None:
        """Counts a request and logs it; never what is in it."""
        seconds = time.monotonic() - exchange.started
        self.metrics.open.set(self.open)
        self.metrics.requests.labels(exchange.path, str(exchange.status)).inc()
        self.metrics.seconds.labels(exchange.path).observe(seconds)
        facts: dict[str, Any] = {
            "id": exchange.id,
            "method": exchange.scope["method"],
            "path": exchange.path,
            "status": exchange.status,
            "seconds": round(seconds, 4),
            "bytes": exchange.body_bytes,
        }
        logger.info("request", extra={"facts": facts})
