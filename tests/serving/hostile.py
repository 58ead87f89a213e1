"""Bodies that no honest client sends: broken JSON, wrong types, pictures that are none, names of files."""

import base64
import copy
import json
import random
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from serving.helpers import asked, data_url, picture

PATHS = ("/v1/chat/completions", "/v1/images/generations", "/v1/seed/encode", "/v1/seed/decode")
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, 1e308, float("nan"), float("inf"),
    -float("inf"), "", " ", "\0", "\ud800", "a\nb", "../..", "x" * 9000, "é", "mini", "tiny", "auto", "9999x9999",
    [], {}, [[]], [None], {"": None}, [1] * 2000, [["a"] * 40] * 40, {"type": "text"}, {"\ud800": "\ud800"},
]  # fmt: skip
TEXTS = [
    b"", b" ", b"null", b"[]", b"1", b'"', b"{", b"nul", b"NaN", b"[NaN]", b"-Infinity", b"1" * 5000, b"\xff\xfe{}",
    b"\0", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 50_000, b"[" * 100_000 + b"]" * 100_000, b"<xml/>",
    b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}", b'{"prompt": "\\ud800"}', b'{"prompt": "\xff"}',
    b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", b'{"prompt":"a"}{"prompt":"a"}', b'{"prompt":"a","prompt":1}',
    b"prompt=a&n=1", b'{"prompt": "a", "n": 1e400}',
]  # fmt: skip


def bodies_of(secret: Path) -> dict[str, list[dict]]:
    """Proper bodies of each path; `secret` is a picture's file whose path stands where a picture or a text does."""
    image = data_url(picture(), "jpeg")
    codes = [list(range(32)), [0] * 32]
    turns = [{"role": "system", "content": "Be brief."}, *asked("a fox"), {"role": "assistant", "content": "a"}]
    sampled = {"max_tokens": 3, "temperature": 1.5, "top_p": 0.5, "stop": ["a"]}
    chats = [
        {"messages": asked("What is it?", picture())},
        {"messages": asked("draw a fox"), "stream": True, "seed": 1, "stream_options": {"include_usage": True}},
        {"messages": turns},
        {"messages": asked(str(secret))},
        {"messages": asked(f"a fox {secret}", picture(), picture(1)), **sampled},
    ]
    return {
        PATHS[0]: [body | {"model": "tiny"} for body in chats],
        PATHS[1]: [{"model": "tiny", "prompt": "a fox", "n": 2, "size": "64x64", "seed": 1, "temperature": 0.5}],
        PATHS[2]: [{"model": "tiny", "images": [image, image]}],
        PATHS[3]: [{"model": "tiny", "codes": codes, "seed": 0, "steps": 1, "guidance_scale": 2}],
    }


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [place for key, value in items for place in [(*path, key), *_places(value, (*path, key))]]


def changed(dice: random.Random, document: Any) -> Any:
    """A document of which up to three parts are another value, missing, or doubled."""
    document = copy.deepcopy(document)
    for _ in range(dice.randint(1, 3)):
        places = _places(document)
        if not places:
            break
        *way, last = dice.choice(places)
        parent = document
        for key in way:
            parent = parent[key]
        change = dice.choice(["replace", "replace", "replace", "remove", "double"])
        if change == "remove":
            del parent[last]
        elif change == "double" and isinstance(parent, list):
            parent.extend([parent[last]] * dice.choice([1, 20, 70]))
        else:
            parent[last] = dice.choice(ODD)
    return document


def _png(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose header may lie."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def files(dice: random.Random) -> bytes:
    """The bytes of a file that is a broken or a huge picture, or none."""
    kind = dice.choice(["png", "jpeg", "gif", "webp", "bmp", "tiff", "ppm", "ico"])
    buffer = BytesIO()
    picture(dice.randint(0, 5)).save(buffer, format=kind)
    whole = buffer.getvalue()
    at = dice.randrange(len(whole))
    made = [
        whole[:at],
        whole[:at] + dice.randbytes(8) + whole[at + 8 :],
        whole[:at] + b"\0" * 300 + whole[at:],
        whole,
        _png(60_000, 60_000, zlib.compress(b"\0" * 100)),
        _png(2**31 - 1, 2**31 - 1, b""),
        _png(5000, 5000, zlib.compress(b"\0" * 1_000_000)),
        _png(0, 0, b""),
        b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"BM" + dice.randbytes(60),
        dice.randbytes(dice.randrange(2000)),
        b"",
    ]
    return dice.choice(made)


def urls(dice: random.Random, secret: Path) -> str:
    """What stands in the place of a picture."""
    payload = base64.b64encode(files(dice)).decode()
    header = dice.choice(
        ["data:image/png;base64,", "DATA:image/jpeg;base64,", "data:;base64,", "data:text/html;base64,"]
    )
    others = [
        f"file://{secret}", str(secret), secret.name, f"data:{secret}", f"data:image/png,{secret}",
        "http://127.0.0.1:1/a.png", "https://example.com/a.png", "ftp://example.com/a.png", "//example.com/a.png",
        "data:image/png;base64", "data:", "\0", f"{header}{payload[:-1]}", f"{header}!{payload}", f"{header}{payload}é",
        f"{header} {payload}", payload,
    ]  # fmt: skip
    return f"{header}{payload}" if dice.random() < 0.6 else dice.choice(others)


def hostile(dice: random.Random, secret: Path) -> tuple[str, bytes]:
    """A path and a body."""
    path = dice.choice(PATHS)
    body = dice.choice(bodies_of(secret)[path])
    kind = dice.random()
    if kind < 0.15:
        return path, dice.choice(TEXTS)
    if kind < 0.25:
        text = json.dumps(body).encode()
        at = dice.randrange(len(text))
        return path, text[:at] + dice.choice([b"", b"\xff", b"\0", b'"', b"{", b"9" * 12]) + text[
            at + dice.choice([0, 1, len(text)]) :
        ]
    if kind < 0.5:
        url = urls(dice, secret)
        images = {
            PATHS[0]: {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
        }
        return dice.choice(
            [(PATHS[0], json.dumps(images[PATHS[0]]).encode()), (PATHS[2], json.dumps({"images": [url]}).encode())]
        )
    return path, json.dumps(changed(dice, body)).encode()
