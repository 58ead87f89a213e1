"""A conversation as a piece of work.

A model that was trained on chats gets all of it. For one that was trained on single turns, the last message of the user
says what to do; of the messages before it only the latest picture counts, which is what a question without a picture is
about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from seedtok.lm.messages import CHATTED, latest_turns, wish_of
from seedtok.serving.call import Call
from seedtok.serving.engine import Engine
from seedtok.serving.errors import ApiError
from seedtok.serving.protocol import ChatRequest, ImagePart, Message
from seedtok.serving.service import new_seed
from seedtok.serving.tasks import Answer, Caption, Continue, Draw, OnPart, Task, Turns, Writing

BEAMS = 5  # the library's own
LONGEST = 4096  # tokens of any text, however many are asked for
DRAWN = 4  # pictures in one answer


@dataclass(frozen=True)
class Conversation:
    """What a request comes to: alternating turns, the user's first and last, its last message, and the latest picture.

    For a model that was trained on single turns the last message is the only turn.
    """

    turns: Turns
    text: str  # of the last message
    picture_count: int  # in the last message
    picture: Image.Image | None


async def read(request: ChatRequest, call: Call) -> Conversation:
    """Decodes the pictures that count; raises ApiError for what is no prompt, and for URLs that are not opened."""
    service = call.service
    users = [number for number, message in enumerate(request.messages) if message.role == "user"]
    if not users:
        raise ApiError(400, "no message of the user: say what to do", "invalid_value", "messages")
    messages = request.messages[: users[-1] + 1]
    own, chats = _parts(messages[-1]), service.engine.model.template.chats
    turns = _turns(messages, service.limits.pictures) if chats else [own]
    service.check_chat([_text(turn) for turn in turns], "messages")
    before = [part for message in messages[:-1] for part in _parts(message)]
    urls = _urls(own) if chats else _urls(own) or _urls(before)[-1:]
    if _text(own).strip() or not urls:
        service.check_prompt(_text(own), "messages")
    urls = [url for turn in turns for url in _urls(turn)] or urls
    opened = await call.pictures(urls, "messages")
    pictures = iter(opened)
    made = (tuple(part if isinstance(part, str) else next(pictures) for part in turn if part != "") for turn in turns)
    text = "\n".join(part for part in own if isinstance(part, str)).strip()
    return Conversation(tuple(made), text, len(_urls(own)), opened[-1] if opened else None)


def _parts(message: Message) -> list[str | ImagePart]:
    """The texts and pictures of a message in order."""
    content = message.content
    listed = [content] if isinstance(content, str) else content or []
    parts = [part if isinstance(part, str | ImagePart) else part.text for part in listed]
    return [*parts, *(message.images or [])]


def _text(parts: Sequence[str | ImagePart]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def _urls(parts: Sequence[str | ImagePart]) -> list[str]:
    return [part.image_url.url for part in parts if not isinstance(part, str)]


def _turns(messages: Sequence[Message], pictures: int) -> list[list[str | ImagePart]]:
    """Alternating turns of user and model, the user's first; neighbouring messages of one side are one turn.

    System messages count as the user's. What the model said before the user did is left out, and so are the first turns
    where there are more than so many pictures.
    """
    turns: list[list[str | ImagePart]] = []
    for message in messages:
        is_model = message.role == "assistant"
        if is_model == bool(len(turns) % 2):
            turns.append(_parts(message))
        elif turns:
            turns[-1] += ["\n", *_parts(message)]
    while len(turns) > 1 and sum(len(_urls(turn)) for turn in turns) > pictures:
        turns = turns[2:]
    return turns


def task_of(
    conversation: Conversation, request: ChatRequest, engine: Engine, on_part: OnPart | None = None
) -> Task:  # fmt: skip
    """The work that answers a conversation, with no more text than the model's context has room for.

    `modalities` of "image" alone draws, of "text" alone does not; both, or none, leave it to the message. `on_part`
    gets text and pictures as they are made, where the answer is not searched for by beams. Raises ApiError for an empty
    prompt of a drawing, InputError for a prompt that is longer than the context.
    """
    return _task_of(conversation, request, engine, on_part).fitted(engine)


def _task_of(
    conversation: Conversation, request: ChatRequest, engine: Engine, on_part: OnPart | None
) -> Task:  # fmt: skip
    """The work before its text is fitted into the context."""
    modalities, template = set(request.modalities or ("text", "image")), engine.model.template
    images, picture, count = DRAWN if "image" in modalities else 0, conversation.picture, conversation.picture_count
    wish = wish_of(conversation.text, count, picture is not None, bool(images))
    if modalities == {"image"}:
        return _drawing(wish.words if wish.kind == "drawing" else conversation.text, request)
    told = wish.kind in ("caption", "question")  # by beams, where there are several
    if template.chats and not (told and _is_searched(request, wish.kind == "caption")):
        turns = latest_turns(engine.model, conversation.turns)
        return _continuation(tuple(turns), request, CHATTED, images, on_part)
    if wish.kind == "drawing":
        return _drawing(wish.words, request)
    if picture is None or not told:
        return _continuation(conversation.turns[-1:], request, wish.length, images, on_part)
    is_caption = wish.kind == "caption"
    length, beams = _length(request, wish.length), request.num_beams or BEAMS
    if request.temperature or beams == 1:  # token by token
        if request.rerank and is_caption:
            raise ApiError(
                400,
                "rerank chooses among the captions of several beams: leave out temperature and num_beams",
                "invalid_value",
                "rerank",
            )
        return _continuation(((picture, wish.prompt(template)),), request, length, 0, on_part)
    if is_caption:
        return Caption(picture, beams, length, bool(request.rerank))
    return Answer(picture, wish.words, beams, length)


def _is_searched(request: ChatRequest, is_caption: bool) -> bool:
    """Whether a request asks for beams or reranking: a model of chats then captions or answers outside the chat."""
    return (request.num_beams or 1) > 1 or bool(request.rerank and is_caption)


def most_tokens(task: Task) -> int | None:
    """The length at which a task's text is cut; None for one that is no text."""
    return task.max_new_tokens if isinstance(task, Writing) else None


def _length(request: ChatRequest, own: int) -> int:
    """The most tokens to write: those that the client asks for, or else the task's own."""
    given = [tokens for tokens in (request.max_tokens, request.max_completion_tokens) if tokens is not None]
    return min([*given, LONGEST]) if given else own


def _drawing(prompt: str, request: ChatRequest) -> Draw:
    if not prompt.strip():
        raise ApiError(400, "an empty prompt: say what to draw", "invalid_value", "messages")
    return Draw(prompt.strip(), new_seed(request.seed), 1, request.temperature or 0.0)


def _continuation(
    turns: Turns, request: ChatRequest, length: int, max_images: int, on_part: OnPart | None
) -> Continue:  # fmt: skip
    return Continue(
        turns, new_seed(request.seed), _length(request, length), max_images,
        request.temperature or 0.0, request.top_p or 1.0, on_part,
    )  # fmt: skip
