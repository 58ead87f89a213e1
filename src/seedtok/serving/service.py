"""What the endpoints share: the model and its name, the limits, and the threads."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from seedtok.serving.engine import Engine
from seedtok.serving.errors import ApiError
from seedtok.serving.limits import Limits
from seedtok.serving.metrics import Metrics
from seedtok.serving.worker import Worker

new_threads = partial(ThreadPoolExecutor, 4)  # each of those for pictures may hold a large one


@dataclass
class Service:
    """One model behind one queue."""

    engine: Engine
    name: str
    limits: Limits
    metrics: Metrics
    worker: Worker
    created: int = field(default_factory=lambda: int(time.time()))
    threads: ThreadPoolExecutor = field(default_factory=new_threads)  # for what reads and writes no pictures
    picture_threads: ThreadPoolExecutor = field(default_factory=new_threads)
    unread: int = 0  # pictures that wait to be read

    def close(self) -> None:
        """Ends all threads, the worker's once its queue is empty."""
        self.worker.close()
        for threads in (self.threads, self.picture_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def check_model(self, name: str | None) -> None:
        """Raises ApiError, 404, for another model than the one that is served; None is that one."""
        if name not in (None, self.name):
            raise ApiError(404, f"no model {name!r} here; this server has {self.name!r}", "model_not_found", "model")

    def check_can(self, *, write: bool = False, draw: bool = False) -> None:
        """Raises ApiError, 404, for what takes a language model or an image decoder, where this server has none."""
        if write and not self.engine.writes:
            message = "this server has no language model, but an image tokenizer: /v1/seed/encode takes pictures"
            raise ApiError(404, message, "no_language_model")
        if draw and not self.engine.draws:
            raise ApiError(404, "this server has no image decoder: it encodes pictures alone", "no_image_decoder")

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


def new_seed(given: int | None) -> int:
    """A seed that was asked for, as torch takes it, or a new one."""
    return secrets.randbelow(2**31) if given is None else given % 2**63


def _service(request: Request) -> Service:
    return request.app.state.service


TheService = Annotated[Service, Depends(_service)]
