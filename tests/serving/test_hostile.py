"""Nothing that a client sends is an error of the server, opens a file or an address, or starts a program."""

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from fuzz.values import quick
from serving.helpers import asked, picture
from serving.hostile import PATHS, hostile

COUNT = 1000 * int(os.environ.get("FUZZ", "1"))
TYPES = ["application/json"] * 9 + [
    "text/plain",
    "application/xml",
    "multipart/form-data; boundary=x",
    "",
    "application/json; charset=utf-16",
]
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system", "os.exec")
_watched: list[tuple[str, Any]] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and (event == "open" or event in FORBIDDEN):
        _watched.append((event, arguments[0]))


sys.addaudithook(_audit)  # it cannot be removed again


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """What this process opens, looks for, connects to or starts within."""
    global _watched
    seen = _watched = []
    stat = os.stat

    def noted(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        seen.append(("stat", path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", noted)
    try:
        yield seen
    finally:
        _watched = None
        monkeypatch.undo()


def check_untouched(seen: list[tuple[str, Any]], secret: Path) -> None:
    assert [event for event in seen if event[0] in FORBIDDEN] == []
    assert [event for event in seen if secret.name in str(event[1]) or "passwd" in str(event[1])] == []


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture's file that no client is to see."""
    picture().save(tmp_path / "secret.png")
    return tmp_path / "secret.png"


def test_what_is_watched_is_seen(secret: Path, monkeypatch: pytest.MonkeyPatch):
    with watched(monkeypatch) as seen:
        assert secret.is_file()
        secret.read_bytes()
    assert {event for event, path in seen if secret.name in str(path)} == {"stat", "open"}


@pytest.mark.slow
def test_hostile_bodies(client: Callable, secret: Path, monkeypatch: pytest.MonkeyPatch):
    dice = random.Random(0)
    server = client(pixels=10_000_000)
    statuses: dict[int, int] = {}
    with watched(monkeypatch) as seen:
        for number in range(COUNT):
            path, body = hostile(dice, secret)
            found = server.post(path, content=body, headers={"content-type": dice.choice(TYPES)})
            assert found.status_code in (200, 400, 404, 413), (number, path, body[:300], found.text[:300])
            statuses[found.status_code] = statuses.get(found.status_code, 0) + 1
            if found.status_code != 200:
                error = found.json()["error"]
                assert error["type"] == "invalid_request_error"
                assert 0 < len(error["message"]) < 500
                assert "\n" not in error["message"]
    check_untouched(seen, secret)
    assert statuses[400] > COUNT / 3
    assert statuses[200] > COUNT / 30  # some of what is odd is still right
    said = {"model": "tiny", "messages": asked("", picture())}
    assert server.post(PATHS[0], json=said).status_code == 200


def test_a_text_that_names_a_file_is_a_text(client: Callable, secret: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(secret.parent)
    server = client()
    with watched(monkeypatch) as seen:
        for text in (str(secret), secret.name, f"{'x' * 5000}.png", "a\0.png"):
            for said in (text, f"draw {text}"):
                answer = server.post(PATHS[0], json={"messages": asked(said), "max_tokens": 2})
                assert answer.status_code in (200, 400), answer.text  # too long for this model
    check_untouched(seen, secret)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE", "FOO"])
@pytest.mark.parametrize(
    "path", [*PATHS, "/v1/nowhere", "/..%2f..%2fetc/passwd", "/v1/models/%ff", "/v1/models/" + "x" * 3000]
)
def test_other_methods_and_paths(client: Callable, method: str, path: str):
    found = client().request(method, path)
    assert found.status_code in (404, 405)
    assert found.json()["error"]["type"] == "invalid_request_error"


def test_what_is_no_json_is_told_so(client: Callable):
    server = client()
    for body in (b"{", b"", b"[" * 100_000):
        error = server.post(PATHS[1], content=body, headers={"content-type": "application/json"}).json()["error"]
        assert "JSON" in error["message"] or "parsing the body" in error["message"] or "required" in error["message"]
    found = server.post(PATHS[1], content=json.dumps({"prompt": "a"}), headers={"content-type": "text/plain"})
    assert found.status_code == 400  # a page on another site can send no more than that unasked
    assert "application/json" in found.json()["error"]["message"]


# ---------------------------------------------------------------- the OpenAPI schema

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    unsupported_method,
]  # fmt: skip


@pytest.fixture(scope="module")
def schema(address: str) -> Any:
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


OPERATIONS = [*PATHS, "/v1/seed/codes/{code}", "/v1/models", "/v1/models/{model}", "/healthz", "/metrics"]


def test_the_schema_has_all_paths(schema: Any):
    assert {found.ok().path for found in schema.get_all_operations()} == set(OPERATIONS)


@pytest.mark.parametrize("path", OPERATIONS)
def test_answers_are_as_the_schema_says(schema: Any, path: str):
    [operation] = [found.ok() for found in schema.get_all_operations() if found.ok().path == path]

    @quick(20 if path in PATHS else 5)
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()
