"""/v1/chat/completions: an answer at once, or as server-sent events."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from PIL import Image

from seedtok.serving.call import Call, TheCall
from seedtok.serving.conversation import Conversation, most_tokens, read, task_of
from seedtok.serving.errors import ClientGone, ErrorBody, as_api_error, body_of
from seedtok.serving.pictures import data_url
from seedtok.serving.protocol import (
    ChatRequest,
    Choice,
    Completion,
    ResponseImage,
    ResponseImageUrl,
    ResponseMessage,
    Usage,
)
from seedtok.serving.service import Service
from seedtok.serving.stream import EventStream, Stream
from seedtok.serving.tasks import Outcome, Task

router = APIRouter()
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}, "4XX": {"model": ErrorBody}
}  # fmt: skip


@router.post("/v1/chat/completions", responses=STREAM, response_model=Completion, response_model_exclude_none=True)
async def complete(body: ChatRequest, call: TheCall) -> Any:
    """Answers a conversation: captions, short answers, drawings, or any mixture of texts and pictures."""
    service = call.service
    service.check_model(body.model)
    service.check_can(write=True)
    conversation = await read(body, call)
    if body.stream:
        return await _streamed(body, call, conversation)
    task = await call.in_thread(service.threads, task_of, conversation, body, service.engine)
    [outcome] = await call.work([task])
    threads = service.picture_threads if outcome.pictures else service.threads
    return await call.in_thread(threads, _completion, body, service, task, outcome)


def _completion(body: ChatRequest, service: Service, task: Task, outcome: Outcome) -> Completion:
    text, reason = _finished(body, task, outcome)
    message = ResponseMessage(content=text, images=_images(outcome.pictures) or None)
    return Completion(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=service.name,
        choices=[Choice(message=message, finish_reason=reason)],
        usage=_usage(outcome),
        warnings=list(outcome.warnings) or None,
    )


def _finished(body: ChatRequest, task: Task, outcome: Outcome) -> tuple[str, Any]:
    """The text up to the first of the request's stop texts, and why it ends."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    ends = [at for stop in stops if (at := outcome.text.find(stop)) >= 0]
    if ends:
        return outcome.text[: min(ends)], "stop"
    most = most_tokens(task)
    written = sum(isinstance(part, str) for part in outcome.parts)
    is_cut = most is not None and written == 1 and outcome.completion_tokens >= most and not outcome.pictures
    return outcome.text, "length" if is_cut else "stop"


def _images(pictures: Sequence[Image.Image], first: int = 0) -> list[ResponseImage]:
    urls = map(data_url, pictures)
    return [ResponseImage(index=i, image_url=ResponseImageUrl(url=url)) for i, url in enumerate(urls, first)]


def _usage(outcome: Outcome) -> Usage:
    given, made = outcome.prompt_tokens, outcome.completion_tokens
    return Usage(prompt_tokens=given, completion_tokens=made, total_tokens=given + made)


# ---------------------------------------------------------------- server-sent events


async def _streamed(body: ChatRequest, call: Call, conversation: Conversation) -> EventStream:
    """Begins with the first piece of the answer or the end of the work, so that an error before it is one of HTTP."""
    stream = Stream(call)
    on_part = None if body.stop else stream.put
    task = await call.in_thread(call.service.threads, task_of, conversation, body, call.service.engine, on_part)
    first = await stream.start(task)
    return EventStream(_events(body, call, stream, task, first))


async def _events(
    body: ChatRequest, call: Call, stream: Stream, task: Task, piece: str | Image.Image | Outcome
) -> AsyncGenerator[str]:
    """Streams a reply in chunks, each text and picture as soon as it is decoded; beam search gives all at the end."""
    chunks = _Chunks(call.service.name)
    answer = _Sent()
    try:
        yield chunks.of({"role": "assistant", "content": ""})
        while not isinstance(piece, Outcome):
            if delta := await answer.delta(piece, call):
                yield chunks.of(delta)
            piece = await stream.next()
        text, reason = _finished(body, task, piece)
        if not answer.text:
            for word in re.findall(r"\s*\S+\s*?", text):
                yield chunks.of({"content": word})
        for picture in piece.pictures[answer.pictures :]:
            yield chunks.of(await answer.delta(picture, call))
        warnings = {"warnings": list(piece.warnings)} if piece.warnings else {}
        yield chunks.of({}, reason, **warnings)
        if body.stream_options and body.stream_options.include_usage:
            yield chunks.event({"choices": [], "usage": _usage(piece).model_dump()})
        yield "data: [DONE]\n\n"
    except ClientGone:
        return
    except Exception as error:  # the answer has begun, so its status cannot tell
        yield chunks.event(body_of(as_api_error(error)))
    finally:
        stream.drop()


@dataclass
class _Sent:
    """What has been sent of an answer."""

    text: str = ""
    pictures: int = 0
    opens: bool = True  # whether the next piece of text begins a text

    async def delta(self, piece: str | Image.Image, call: Call) -> dict[str, Any]:
        """The change to the message that a piece is; empty for the spaces before a text."""
        if isinstance(piece, str):
            if self.opens:
                piece = piece.lstrip()
                piece = f" {piece}" if self.text and piece else piece  # as in `Outcome.text`
                self.opens = not piece
            self.text += piece
            return {"content": piece} if piece else {}
        images = await call.in_thread(call.service.picture_threads, _images, [piece], self.pictures)
        self.pictures, self.opens = self.pictures + 1, True
        return {"images": [image.model_dump() for image in images]}


@dataclass(frozen=True)
class _Chunks:
    """What the chunks of one answer share."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def of(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
        """The event of a change to the message."""
        return self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})

    def event(self, record: dict[str, Any]) -> str:
        """A server-sent event."""
        shared = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return f"data: {json.dumps({**shared, **record})}\n\n"
