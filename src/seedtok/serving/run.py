"""Serves an application until it is told to stop, and then finishes what has begun."""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import ip_address
from threading import Thread
from typing import TypeVar

import uvicorn
from fastapi import FastAPI

from seedtok.core.errors import ConfigError, SeedTokWarning
from seedtok.serving.connection import WAITING, Connection
from seedtok.serving.limits import Limits
from seedtok.serving.logs import log_as_json

logger = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
DRAINING = 5  # seconds beyond the limit of a request
T = TypeVar("T")


def listening(host: str, port: int) -> socket.socket:
    """A socket at an address; raises ConfigError where that cannot be had."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        raise ConfigError(
            f"cannot listen on {host!r}, port {port}: {getattr(error, 'strerror', None) or error}"
        ) from None
    return found


def own_hosts(host: str, server_socket: socket.socket) -> list[str]:
    """The names by which programs on this machine reach a socket that no others reach; none for any other socket."""
    address = server_socket.getsockname()[0]
    return sorted({*LOOPBACK, address, host.lower()}) if ip_address(address).is_loopback else []


def from_short_thread(load: Callable[[], T]) -> T:
    """What a function returns or raises, run in a thread that then ends.

    OpenMP keeps the threads that a thread has computed with while that one lives, and where a process has more of them
    than there are cores, lets them sleep between any two operations. If the main thread has loaded the model, the
    worker's pictures take half as long again.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(load())
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=run, name="seedtok-loading", daemon=True)  # Ctrl-C does not wait for it
    thread.start()
    result = future.result()
    thread.join()
    return result


def serve(app: FastAPI, server_socket: socket.socket, limits: Limits) -> None:
    """Answers requests until SIGTERM or Ctrl-C; then takes no more, answers those that are open, and returns.

    The signal is raised again at the end, for the program's own handler.
    """
    log_as_json()
    warnings.simplefilter("ignore", SeedTokWarning)  # clients are told in their answers
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, http=Connection, ws="none", lifespan="on",
        backlog=WAITING, timeout_graceful_shutdown=int(limits.seconds) + DRAINING,
    )  # fmt: skip
    server_socket.listen(config.backlog)  # from here on clients are heard
    host, port, *_ = server_socket.getsockname()
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    logger.info("serving", extra={"facts": {"model": app.state.service.name, "address": address}})
    uvicorn.Server(config).run([server_socket])
