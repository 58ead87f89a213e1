"""What every request passes before the endpoints: its host, its key, limits on bodies, a line in the log, counters."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
PICTURE_PATHS = ("/v1/chat/completions", "/v1/seed/encode")  # whose bodies can have pictures


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


def _path(scope: Scope) -> str:
    """The path of a request below that of the application."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


class Guard:
    """An ASGI application before another one."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, keys: Keys, hosts: Sequence[str] = ()):
        self.app, self.limits, self.metrics, self.keys, self.hosts = app, limits, metrics, keys, hosts
        self.open = self.files = self.held = 0  # requests, those for the page's files, and bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode())]
            await send(message)

        try:
            with self._counted(exchange):
                await self.app(scope, self._limited(receive, exchange), answer)
        except ApiError as refused:
            more = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(refused.status, {})
            await JSONResponse(body_of(refused), refused.status, more)(scope, receive, answer)
        except BaseException:
            exchange.status = exchange.status or 500
            raise
        finally:
            self._note(exchange)

    @contextmanager
    def _counted(self, exchange: _Exchange) -> Iterator[None]:
        """Counts a request as open; raises ApiError for one that is not let in."""
        path = _path(exchange.scope)
        is_file = is_page(path)
        is_other = not is_file and path not in OPEN_PATHS
        self._admit(Headers(scope=exchange.scope), path, is_file)
        self.files += is_file
        self.open += is_other
        self.metrics.open.set(self.open)
        try:
            yield
        finally:
            self.files -= is_file
            self.open -= is_other
            self.held -= exchange.body_bytes
            self.metrics.open.set(self.open)

    def _admit(self, headers: Headers, path: str, is_file: bool) -> None:
        """Raises ApiError for a request that is not let in."""
        if self.hosts and path not in OPEN_PATHS and not self._is_of_host(headers):
            message = (
                f"without keys this server answers requests to {', '.join(self.hosts)} alone, and from no other site's "
                "page; to allow others, start it with --api-key-file, or with another --host"
            )
            raise ApiError(403, message, "forbidden_host")
        if path not in OPEN_PATHS:
            if not is_file:  # the files of the page ask for a key themselves
                scheme, _, key = headers.get("authorization", "").partition(" ")
                if not self.keys.admit(key.strip() if scheme.lower() == "bearer" else ""):
                    raise ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", "invalid_api_key")
            count, most = (self.files, self.limits.files) if is_file else (self.open, self.limits.requests)
            if count >= most:
                raise ApiError(429, f"{most} requests are open; try again", "too_many_requests")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > self._most_bytes(path):
            raise self._too_large(path)

    def _is_of_host(self, headers: Headers) -> bool:
        """Whether a request names one of the hosts, and comes from no web page of another.

        A page of another site can give its own name this machine's address, and then reads the answers. Programs with
        pages of their own, such as editors, send origins like "vscode-webview://...", which no site can.
        """
        host = headers.get("host", "")
        named = re.sub(r":\d*$", "", host).strip("[]").lower()
        origin = headers.get("origin", f"http://{host}")
        is_site = origin == "null" or origin.startswith(("http:", "https:"))
        return named in self.hosts and (origin in (f"http://{host}", f"https://{host}") or not is_site)

    def _most_bytes(self, path: str) -> int:
        limits = self.limits
        return limits.body_bytes if path in PICTURE_PATHS else min(limits.text_bytes, limits.body_bytes)

    def _too_large(self, path: str) -> ApiError:
        return ApiError(413, f"a body has at most {self._most_bytes(path):,} bytes", "too_large")

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
            path = _path(exchange.scope)
            if exchange.body_bytes > self._most_bytes(path):
                raise HTTPException(413, self._too_large(path).message)
            if self.held > self.limits.total_bytes:
                raise HTTPException(429, "too many large requests at once; try again", {"Retry-After": "1"})
            return message

        return limited

    def _note(self, exchange: _Exchange) -> None:
        """Counts a request and logs it; never what is in it."""
        seconds = time.monotonic() - exchange.started
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
