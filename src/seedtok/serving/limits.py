"""What one client, and all of them together, may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass, fields

from seedtok.core.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Bounds on requests; what is beyond them is refused with 400, 408, 413 or 429 before any work is done.

    Attributes:
        body_bytes: size of a request's body.
        text_bytes: size of a body without pictures: JSON can take a hundred times the memory of its text.
        total_bytes: size of all bodies that are held at once.
        body_seconds: time that a body may take to arrive.
        requests: requests that are open at once.
        files: requests for the page's files, which need no key, that are open at once beside those.
        pictures: pictures in a request.
        pixels: width x height of a picture.
        prompt_chars: length of a prompt.
        chat_chars: length of all texts of a chat.
        seconds: time from the end of a request's body to its answer.
        queue: pieces of work (texts or pictures to be made) that may wait, and pictures that wait to be read.
        batch: pieces of work that the model does together.
    """

    body_bytes: int = 16 << 20
    text_bytes: int = 1 << 20
    total_bytes: int = 512 << 20
    body_seconds: float = 30
    requests: int = 512
    files: int = 128
    pictures: int = 16
    pixels: int = 32_000_000
    prompt_chars: int = 8000
    chat_chars: int = 64_000
    seconds: float = 120
    queue: int = 256
    batch: int = 16

    def __post_init__(self):
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(f"{field.name} is {getattr(self, field.name)}; expected more than 0")
