"""A conversation as a piece of work for a model that was trained on single turns.

The last message of the user says what to do; of the messages before it only the latest picture counts, which is what a
question without a picture is about.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from PIL import Image

from seedtok.lm.prompts import CAPTION, question_prompt
from seedtok.serving.engine import Engine
from seedtok.serving.errors import ApiError
from seedtok.serving.protocol import ChatRequest, ImagePart, Message
from seedtok.serving.service import Service, new_seed
from seedtok.serving.tasks import Answer, Caption, Continue, Draw, OnPart, Task, Writing

DRAWING = re.compile(
    r"(?:please\s+)?(?:draw|paint|sketch|(?:generate|create|make)(?:\s+me)?\s+an?\s+(?:image|picture|drawing))\b"
    r"(?:\s+me\b)?(?:\s+an?\s+(?:image|picture|drawing)\b)?(?:\s+of\b)?[\s:]*(?P<prompt>.*)",
    re.IGNORECASE | re.DOTALL,
)
QUESTION = re.compile(r"Question:\s*(?P<question>.*?)\s*Short answer[.:]?", re.IGNORECASE | re.DOTALL)
BEAMS, CAPTION_LENGTH, ANSWER_LENGTH = 5, 30, 10  # the library's own
CONTINUED = 64  # tokens of free text
LONGEST = 4096  # tokens of any text, however many are asked for
DRAWN = 4  # pictures in one answer


@dataclass(frozen=True)
class Conversation:
    """What a request comes to: the user's last message in order, and the latest picture, if there is any."""

    segments: tuple[str | Image.Image, ...]
    picture: Image.Image | None

    @property
    def text(self) -> str:
        """The texts of the last message."""
        return "\n".join(part for part in self.segments if isinstance(part, str)).strip()

    @property
    def picture_count(self) -> int:
        """The pictures in the last message."""
        return sum(not isinstance(part, str) for part in self.segments)


async def read(request: ChatRequest, service: Service) -> Conversation:
    """Decodes the pictures that count; raises ApiError for what is no prompt, and for URLs that are not opened."""
    users = [number for number, message in enumerate(request.messages) if message.role == "user"]
    if not users:
        raise ApiError(400, "no message of the user: say what to do", "invalid_value", "messages")
    last = users[-1]
    parts = _parts(request.messages[last])
    urls = [part.image_url.url for part in parts if not isinstance(part, str)]
    before = [part for message in request.messages[:last] for part in _parts(message)]
    older = [part.image_url.url for part in before if not isinstance(part, str)]
    opened = await service.pictures(urls or older[-1:], "messages")
    texts = "".join(part for part in parts if isinstance(part, str))
    if texts.strip() or not opened:
        service.check_prompt(texts, "messages")
    own = iter(opened)
    segments = tuple(part if isinstance(part, str) else next(own) for part in parts)
    return Conversation(tuple(part for part in segments if part != ""), opened[-1] if opened else None)


def _parts(message: Message) -> list[str | ImagePart]:
    """The texts and pictures of a message in order."""
    content = message.content
    listed = [content] if isinstance(content, str) else content or []
    parts = [part if isinstance(part, str | ImagePart) else part.text for part in listed]
    return [*parts, *(message.images or [])]


def task_of(
    conversation: Conversation, request: ChatRequest, engine: Engine, on_part: OnPart | None = None
) -> Task:  # fmt: skip
    """The work that answers a conversation, with no more text than the model's context has room for.

    `modalities` of "image" alone draws, of "text" alone does not; both, or none, leave it to the message. `on_part`
    gets text and pictures as they are made, where the answer is not searched for by beams. Raises ApiError for an empty
    prompt of a drawing, InputError for a prompt that is longer than the context.
    """
    return _task_of(conversation, request, on_part).fitted(engine)


def _task_of(conversation: Conversation, request: ChatRequest, on_part: OnPart | None) -> Task:
    """The work before its text is fitted into the context."""
    modalities = set(request.modalities or ("text", "image"))
    drawing = DRAWING.fullmatch(conversation.text)
    if modalities == {"image"} or ("image" in modalities and drawing):
        return _drawing(drawing["prompt"] if drawing else conversation.text, request)
    if conversation.picture is None or conversation.picture_count > 1:
        return _continuation(conversation.segments, request, DRAWN if "image" in modalities else 0, on_part)
    asked = QUESTION.fullmatch(conversation.text)
    question = asked["question"] if asked else conversation.text
    is_caption = question.strip(" .:").lower() in ("", CAPTION.lower())
    length = _length(request, CAPTION_LENGTH if is_caption else ANSWER_LENGTH)
    beams = request.num_beams or BEAMS
    if request.temperature or beams == 1:  # token by token
        if request.rerank and is_caption:
            raise ApiError(
                400,
                "rerank chooses among the captions of several beams: leave out temperature and num_beams",
                "invalid_value",
                "rerank",
            )
        prompt = CAPTION if is_caption else question_prompt(question)
        return replace(_continuation((conversation.picture, prompt), request, 0, on_part), max_new_tokens=length)
    if is_caption:
        return Caption(conversation.picture, beams, length, bool(request.rerank))
    return Answer(conversation.picture, question, beams, length)


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
    segments: tuple[str | Image.Image, ...], request: ChatRequest, max_images: int, on_part: OnPart | None
) -> Continue:
    return Continue(
        segments, new_seed(request.seed), _length(request, CONTINUED), max_images,
        request.temperature or 0.0, request.top_p or 1.0, on_part,
    )  # fmt: skip
