"""A conversation as a piece of work.

A model that was trained on chats gets all of it. For one that was trained on single turns, the last message of the user
says what to do; of the messages before it only the latest picture counts, which is what a question without a picture is
about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from seedtok.lm.native import Template
from seedtok.lm.prompts import drawing_in, question_in, question_prompt
from seedtok.serving.engine import Engine
from seedtok.serving.errors import ApiError
from seedtok.serving.protocol import ChatRequest, ImagePart, Message
from seedtok.serving.service import Service, new_seed
from seedtok.serving.tasks import Answer, Caption, Continue, Draw, OnPart, Task, Turns, Writing

BEAMS, CAPTION_LENGTH, ANSWER_LENGTH = 5, 30, 10  # the library's own
CONTINUED, CHATTED = 64, 512  # tokens of free text, and of an answer in a chat
LONGEST = 4096  # tokens of any text, however many are asked for
DRAWN = 4  # pictures in one answer


@dataclass(frozen=True)
class Conversation:
    """What a request comes to: turns, the user's and the model's by turns, and the latest picture, if there is any.

    The user's turn is the first and the last one; for a model that was trained on single turns it is the only one.
    """

    turns: Turns
    picture: Image.Image | None

    @property
    def text(self) -> str:
        """The texts of the last turn."""
        return "\n".join(part for part in self.turns[-1] if isinstance(part, str)).strip()

    @property
    def picture_count(self) -> int:
        """The pictures in the last turn."""
        return sum(not isinstance(part, str) for part in self.turns[-1])


async def read(request: ChatRequest, service: Service) -> Conversation:
    """Decodes the pictures that count; raises ApiError for what is no prompt, and for URLs that are not opened."""
    users = [number for number, message in enumerate(request.messages) if message.role == "user"]
    if not users:
        raise ApiError(400, "no message of the user: say what to do", "invalid_value", "messages")
    messages = request.messages[: users[-1] + 1]
    turns = _turns(messages) if service.engine.model.template.chats else [_parts(messages[-1])]
    urls = [part.image_url.url for turn in turns for part in turn if not isinstance(part, str)]
    before = [part for message in messages[:-1] for part in _parts(message)]
    older = [part.image_url.url for part in before if not isinstance(part, str)]
    opened = await service.pictures(urls or older[-1:], "messages")
    texts = ["".join(part for part in turn if isinstance(part, str)) for turn in turns]
    if texts[-1].strip() or not opened:
        service.check_prompt(texts[-1], "messages")
    service.check_chat(texts, "messages")
    own = iter(opened)
    made = tuple(tuple(part if isinstance(part, str) else next(own) for part in turn if part != "") for turn in turns)
    return Conversation(made, opened[-1] if opened else None)


def _parts(message: Message) -> list[str | ImagePart]:
    """The texts and pictures of a message in order."""
    content = message.content
    listed = [content] if isinstance(content, str) else content or []
    parts = [part if isinstance(part, str | ImagePart) else part.text for part in listed]
    return [*parts, *(message.images or [])]


def _turns(messages: Sequence[Message]) -> list[list[str | ImagePart]]:
    """The user's turns and the model's by turns, the user's first; messages of one side after another are one turn.

    What the system says is of the user's side. What the model said before the user did is left out.
    """
    turns: list[list[str | ImagePart]] = []
    for message in messages:
        is_model = message.role == "assistant"
        if is_model == bool(len(turns) % 2):
            turns.append(_parts(message))
        elif turns:
            turns[-1] += ["\n", *_parts(message)]
    return turns


def task_of(
    conversation: Conversation, request: ChatRequest, engine: Engine, on_part: OnPart | None = None
) -> Task:  # fmt: skip
    """The work that answers a conversation, with no more text than the model's context has room for.

    `modalities` of "image" alone draws, of "text" alone does not; both, or none, leave it to the message. `on_part`
    gets text and pictures as they are made, where the answer is not searched for by beams. Raises ApiError for an empty
    prompt of a drawing, InputError for a prompt that is longer than the context.
    """
    return _task_of(conversation, request, engine.model.template, on_part).fitted(engine)


def _task_of(
    conversation: Conversation, request: ChatRequest, template: Template, on_part: OnPart | None
) -> Task:  # fmt: skip
    """The work before its text is fitted into the context."""
    modalities = set(request.modalities or ("text", "image"))
    drawing = drawing_in(conversation.text)
    if modalities == {"image"} or ("image" in modalities and drawing is not None and not template.chats):
        return _drawing(conversation.text if drawing is None else drawing, request)
    images = DRAWN if "image" in modalities else 0
    if template.chats and not request.rerank and (request.num_beams or 1) == 1:
        return _continuation(conversation.turns, request, CHATTED, images, on_part)
    if conversation.picture is None or conversation.picture_count > 1:
        return _continuation(conversation.turns[-1:], request, CONTINUED, images, on_part)
    question = question_in(conversation.text)
    length = _length(request, CAPTION_LENGTH if question is None else ANSWER_LENGTH)
    beams = request.num_beams or BEAMS
    if request.temperature or beams == 1:  # token by token
        if request.rerank and question is None:
            raise ApiError(
                400,
                "rerank chooses among the captions of several beams: leave out temperature and num_beams",
                "invalid_value",
                "rerank",
            )
        prompt = template.caption if question is None else question_prompt(question, template.question)
        return _continuation(((conversation.picture, prompt),), request, length, 0, on_part)
    if question is None:
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
    turns: Turns, request: ChatRequest, length: int, max_images: int, on_part: OnPart | None
) -> Continue:  # fmt: skip
    return Continue(
        turns, new_seed(request.seed), _length(request, length), max_images,
        request.temperature or 0.0, request.top_p or 1.0, on_part,
    )  # fmt: skip
