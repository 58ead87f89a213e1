"""Limits, keys, and what happens at each of them: an error in OpenAI's format, and the server goes on."""

import asyncio
import gc
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from httpx2 import Response
from PIL import Image
from starlette.testclient import TestClient

from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.lm.seed_lm import SeedLM
from seedtok.serving import connection
from seedtok.serving.app import create_app
from seedtok.serving.guard import Guard, Keys, read_keys
from seedtok.serving.limits import Limits
from seedtok.serving.metrics import Metrics
from serving.helpers import asked, data_url, picture

CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"
FOX = {"prompt": "a fox", "seed": 0}


@contextmanager
def before_each_step(lm: SeedLM, call: Callable[..., None]) -> Iterator[None]:
    """Within, the language model calls this before each of its steps."""
    handle = lm.joint.lm.register_forward_pre_hook(call, prepend=True)
    lm.joint.before_states.insert(0, call)
    try:
        yield
    finally:
        handle.remove()
        lm.joint.before_states.remove(call)


@contextmanager
def paused(lm: SeedLM) -> Iterator[threading.Event]:
    """Within, the model waits at its next step until it is told to go on; gives what is set once it waits."""
    waits, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        waits.set()
        assert go_on.wait(20)

    with before_each_step(lm, wait):
        try:
            yield waits
        finally:
            go_on.set()


def error_of(response: Response, status: int, code: str) -> str:
    """The message of an error that has the right status and format."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["type"] in ("invalid_request_error", "authentication_error", "rate_limit_error", "server_error")
    return error["message"]


# ---------------------------------------------------------------- keys


def test_a_key_is_needed_where_there_are_keys(client: Callable):
    server = client(keys=("correct-horse", "battery-staple"))
    for key in ("", "wrong", "correct-hors", "correct-horse2", "\xe9"):
        headers = {"Authorization": f"Bearer {key}".encode("latin-1")}
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            error_of(server.get(path, headers=headers), 401, "invalid_api_key")
        error_of(server.post(DRAW, json=FOX, headers=headers), 401, "invalid_api_key")
    assert server.get("/healthz").status_code == 200
    for key in ("correct-horse", "battery-staple"):
        assert server.get("/v1/models", headers={"Authorization": f"bearer {key}"}).status_code == 200
    error_of(server.get("/v1/models", headers={"Authorization": "Basic correct-horse"}), 401, "invalid_api_key")


def test_without_keys_only_this_machine_is_answered(lm: SeedLM):
    app = create_app(lm, "tiny", hosts=["127.0.0.1", "::1", "localhost"])
    with TestClient(app) as server:
        for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"):
            assert server.get("/v1/models", headers={"host": host}).status_code == 200
            own = {"host": host, "origin": f"http://{host}"}
            assert server.post(DRAW, json=FOX, headers=own).status_code == 200
            program = {"host": host, "origin": "vscode-webview://1f2e"}
            assert server.get("/v1/models", headers=program).status_code == 200
            for origin in ("null", "http://evil.example", f"http://{host}.evil.example"):
                error_of(server.get("/v1/models", headers={"host": host, "origin": origin}), 403, "forbidden_host")
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "x@localhost"):
            assert "--api-key-file" in error_of(server.get("/v1/models", headers={"host": host}), 403, "forbidden_host")
        assert server.get("/healthz", headers={"host": ""}).status_code == 200


@pytest.mark.parametrize("text", ["", "\n\n", "short\n", "two words\n", "caf\xe9-caf\xe9\n"])
def test_files_without_proper_keys_are_refused(tmp_path: Any, text: str):
    (tmp_path / "keys").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="key"):
        read_keys(tmp_path / "keys")
    (tmp_path / "keys").write_text("first-key\n\n second-key \n")
    assert read_keys(tmp_path / "keys") == ["first-key", "second-key"]


# ---------------------------------------------------------------- sizes


def test_large_bodies_are_refused(client: Callable):
    server = client(body_bytes=1000)
    error_of(server.post(DRAW, json=FOX | {"user": "x" * 1000}), 413, "too_large")

    def pieces() -> Iterator[bytes]:  # without a length
        yield json.dumps(FOX)[:-1].encode()
        yield from [b" " * 100] * 20
        yield b"}"

    headers = {"content-type": "application/json"}
    error_of(server.post(DRAW, content=pieces(), headers=headers), 413, "too_large")
    for length in ("-1", "9" * 5000, "x"):
        error_of(server.post(DRAW, content=b"{}", headers={**headers, "content-length": length}), 413, "too_large")
    assert server.post(DRAW, json=FOX).status_code == 200


def test_bodies_without_pictures_have_a_limit_of_their_own(client: Callable):
    server = client(text_bytes=1000)
    large = {"user": "x" * 1000}
    for path in (DRAW, "/v1/seed/decode", "/v1/models"):
        assert "at most 1,000 bytes" in error_of(server.post(path, json=FOX | large), 413, "too_large")
    assert server.post(CHAT, json={"messages": asked("hello"), "max_tokens": 1} | large).status_code == 200


def test_all_bodies_together_are_limited(client: Callable):
    server = client(total_bytes=50)
    assert "too many large requests" in server.post(DRAW, json=FOX | {"user": "x" * 100}).json()["error"]["message"]
    assert server.post(DRAW, json=FOX).status_code == 200  # nothing of the first is held any more


@pytest.mark.parametrize("path", [CHAT, "/v1/seed/encode"])
def test_pictures_have_limits(client: Callable, path: str):
    server = client(pixels=1000, pictures=2)

    def sent(*images: Image.Image) -> Response:
        urls = list(map(data_url, images))
        return server.post(path, json={"images": urls} if "seed" in path else {"messages": asked("", *images)})

    small, large = Image.new("RGB", (31, 31)), Image.new("RGB", (100, 11))
    assert sent(small, small).status_code == 200
    assert "100 x 11 pixels; at most 1,000" in error_of(sent(small, large), 413, "image_too_large")
    assert "3 pictures in one request" in error_of(sent(small, small, small), 400, "too_many_images")


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, {"messages": asked("a" * 50)}), (DRAW, {"prompt": "a" * 50})],
)
def test_prompts_have_limits(client: Callable, path: str, body: dict):
    assert client().post(path, json=body).status_code == 200
    error_of(client(prompt_chars=49).post(path, json=body), 400, "prompt_too_long")
    longer = json.loads(json.dumps(body).replace("a" * 50, "fox " * 300))
    assert "this model takes 160: shorten it" in error_of(client().post(path, json=longer), 400, "invalid_value")


@pytest.mark.parametrize("field", ["seconds", "queue", "batch", "pixels"])
def test_limits_are_more_than_nothing(field: str):
    with pytest.raises(ConfigError, match=f"{field} is 0; expected more than 0"):
        Limits(**{field: 0})


# ---------------------------------------------------------------- many at once


def in_threads(call: Callable[[], Response], count: int) -> tuple[list[threading.Thread], list[Response]]:
    """Calls in so many threads, and the list where their responses will be."""
    found: list[Response] = []
    threads = [threading.Thread(target=lambda: found.append(call())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, found


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (CHAT, {"messages": asked("hello"), "tools": [{}]}, "tools and logprobs are not supported"),
        (CHAT, {"messages": asked("hello"), "logprobs": True}, "tools and logprobs are not supported"),
        (DRAW, {"prompt": "a fox", "stream": True}, "pictures are not streamed"),
    ],
)
def test_fields_of_the_protocol_that_are_not_supported_are_named(client: Callable, path: str, body: dict, words: str):
    assert words in error_of(client().post(path, json=body), 400, "invalid_value")


def test_what_alone_is_more_than_the_queue_is_answered_when_nothing_waits(client: Callable):
    server = client(queue=2)
    assert len(server.post(DRAW, json=FOX | {"n": 3}).json()["data"]) == 3


def test_beyond_the_queue_the_answer_is_429(client: Callable, lm: SeedLM):
    server = client(queue=3)
    with paused(lm) as waits:
        first, found = in_threads(lambda: server.post(DRAW, json=FOX), 1)
        assert waits.wait(10)
        threads, _ = in_threads(lambda: found.append(server.post(DRAW, json=FOX)), 3)
        while server.app.state.service.worker._waiting() < 3:
            time.sleep(0.005)
        refused = server.post(DRAW, json=FOX)
        error_of(refused, 429, "queue_full")
        assert refused.headers["retry-after"] == "1"
        error_of(server.post(DRAW, json=FOX | {"n": 4}), 429, "queue_full")
        error_of(server.post(CHAT, json={"messages": asked("draw a fox"), "stream": True}), 429, "queue_full")
    for thread in [*first, *threads]:
        thread.join(20)
    assert [response.status_code for response in found if response] == [200] * 4
    assert server.post(DRAW, json=FOX).status_code == 200


def test_beyond_the_open_requests_the_answer_is_429(client: Callable, lm: SeedLM):
    server = client(requests=1)
    with paused(lm) as waits:
        [thread], found = in_threads(lambda: server.post(DRAW, json=FOX), 1)
        assert waits.wait(10)
        error_of(server.get("/v1/models"), 429, "too_many_requests")
        assert server.get("/healthz").status_code == 200  # busy, not ill
    thread.join(20)
    assert found[0].status_code == 200
    assert server.get("/v1/models").status_code == 200


def test_files_of_the_page_take_no_requests_from_others():
    async def run() -> list[int]:
        ends = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if "page" in scope["path"]:
                await ends.wait()
            await send({"type": "http.response.start", "status": 200})

        guard = Guard(app, Limits(requests=1, files=2), Metrics(), Keys(["correct-horse"]))

        async def get(path: str) -> int:
            sent: list[dict] = []

            async def send(message: dict) -> None:
                sent.append(message)

            headers = [(b"authorization", b"Bearer correct-horse")]
            await guard({"type": "http", "method": "GET", "path": path, "headers": headers}, asyncio.Event().wait, send)
            return sent[0]["status"]

        files = [asyncio.create_task(get("/page/page.js")) for _ in range(3)]
        await asyncio.wait(files, return_when=asyncio.FIRST_COMPLETED)
        found = [await get("/v1/models"), await get("/healthz")]
        ends.set()
        return found + [await file for file in files]

    assert asyncio.run(run()) == [200, 200, 200, 200, 429]


@pytest.mark.parametrize("stream", [False, True])
def test_what_takes_too_long_is_dropped(client: Callable, lm: SeedLM, stream: bool):
    server = client(seconds=0.2)
    with paused(lm):
        found = server.post(CHAT, json={"messages": asked("draw a fox"), "stream": stream})
        assert "no answer within 0.2 seconds" in error_of(found, 503, "timeout")
    metrics = server.get("/metrics").text
    assert "seedtok_cancelled_total 1.0" in metrics
    assert 'seedtok_made_total{task="draw"}' not in metrics


@contextmanager
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, reading a picture takes until the end."""
    go_on = threading.Event()
    monkeypatch.setattr("seedtok.serving.call.decoded", lambda *_: go_on.wait(20) and picture(0, (16, 16)))
    try:
        yield
    finally:
        go_on.set()


def test_reading_pictures_counts_as_time_and_holds_up_no_texts(client: Callable, monkeypatch: pytest.MonkeyPatch):
    server = client(seconds=0.3)
    looked_at, told = {"messages": asked("", picture())}, {"messages": asked("hello"), "max_tokens": 1}
    with unreadable(monkeypatch):
        threads, found = in_threads(lambda: server.post(CHAT, json=looked_at), 5)  # more than there are threads
        for thread in threads:
            thread.join(20)
        for response in found:
            assert "no answer within 0.3 seconds" in error_of(response, 503, "timeout")
        long = client()
        threads, _ = in_threads(lambda: long.post(CHAT, json=looked_at), 5)
        while long.app.state.service.unread < 5:
            time.sleep(0.005)
        assert long.post(CHAT, json=told).status_code == 200
    for thread in threads:
        thread.join(20)


def test_beyond_the_pictures_that_may_wait_the_answer_is_429(client: Callable, monkeypatch: pytest.MonkeyPatch):
    server = client(queue=2)
    with unreadable(monkeypatch):
        threads, found = in_threads(lambda: server.post(CHAT, json={"messages": asked("", *[picture()] * 3)}), 1)
        while server.app.state.service.unread < 3:  # a request that asks for more waits alone
            time.sleep(0.005)
        refused = server.post("/v1/seed/encode", json={"images": [data_url(picture())]})
        error_of(refused, 429, "queue_full")
        assert server.post(CHAT, json={"messages": asked("hello"), "max_tokens": 1}).status_code == 200
    threads[0].join(20)
    assert found
    assert server.app.state.service.unread == 0


def test_requests_that_arrive_together_run_together(client: Callable, lm: SeedLM):
    server = client()
    with paused(lm) as waits:
        first, _ = in_threads(lambda: server.post(DRAW, json=FOX), 1)
        assert waits.wait(10)
        threads, found = in_threads(lambda: server.post(DRAW, json=FOX), 6)
        while server.app.state.service.worker._waiting() < 6:
            time.sleep(0.005)
    for thread in [*first, *threads]:
        thread.join(20)
    assert len({response.json()["data"][0]["b64_json"] for response in found}) == 1
    metrics = server.get("/metrics").text
    assert 'seedtok_batch_size_count{task="draw"} 2.0' in metrics
    assert 'seedtok_batch_size_sum{task="draw"} 7.0' in metrics


# ---------------------------------------------------------------- clients that go, or are slow


async def exchange(app: Any, body: dict, events: AsyncIterator[dict]) -> list[dict]:
    """Sends a POST to an application by ASGI; `events` are what comes after the body, each at its time."""
    sent: list[dict] = []
    scope = {
        "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": "",
    }  # fmt: skip
    first = True

    async def receive() -> dict:
        nonlocal first
        if first and body:
            first = False
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        return await anext(events)

    async def send(message: dict) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("stream", [False, True])
def test_work_is_dropped_when_its_client_goes(lm: SeedLM, stream: bool, caplog: pytest.LogCaptureFixture):
    app = create_app(lm, "tiny")
    worker = app.state.service.worker

    async def run() -> list[dict]:
        async def goes() -> AsyncIterator[dict]:
            while not waits.is_set():
                await asyncio.sleep(0.005)
            yield {"type": "http.disconnect"}
            await asyncio.sleep(20)

        async with app.router.lifespan_context(app):
            with paused(lm) as waits:
                body = {"messages": asked("", picture()), "stream": stream, "num_beams": 1}
                sent = await asyncio.wait_for(exchange(app, body, goes()), 10)
            for _ in range(1000):  # the worker goes on to the step at which it sees that
                if worker.metrics.cancelled._value.get():
                    break
                await asyncio.sleep(0.005)
            return sent

    sent = asyncio.run(run())
    assert sent[0]["status"] == 499
    text = app.state.service.metrics.text().decode()
    assert "seedtok_cancelled_total 1.0" in text
    assert "seedtok_made_total{" not in text
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_are_not_read_for_a_client_that_goes(lm: SeedLM, stream: bool, monkeypatch: pytest.MonkeyPatch):
    app = create_app(lm, "tiny")
    read = 0

    def slow(*_: object) -> Image.Image:
        nonlocal read
        read += 1
        time.sleep(0.02)
        return picture()

    async def run() -> list[dict]:
        async def goes() -> AsyncIterator[dict]:
            yield {"type": "http.disconnect"}

        async with app.router.lifespan_context(app):
            return await exchange(app, {"messages": asked("", *[picture()] * 9), "stream": stream}, goes())

    monkeypatch.setattr("seedtok.serving.call.decoded", slow)
    assert asyncio.run(run())[0]["status"] == 499
    assert read < 3


def test_a_stream_stops_when_its_client_goes(lm: SeedLM):
    app = create_app(lm, "tiny")

    async def run() -> list[dict]:
        begun = asyncio.Event()

        async def goes() -> AsyncIterator[dict]:
            await begun.wait()
            yield {"type": "http.disconnect"}
            await asyncio.sleep(20)

        async with app.router.lifespan_context(app):
            steps = 0

            def count(*_: object) -> None:
                nonlocal steps
                steps += 1
                time.sleep(0.02)
                if steps == 3:
                    loop.call_soon_threadsafe(begun.set)

            loop = asyncio.get_running_loop()
            with before_each_step(lm, count):
                body = {"messages": asked("", picture()), "stream": True, "num_beams": 1}
                sent = await asyncio.wait_for(exchange(app, body, goes()), 10)
                while app.state.service.engine._is_unwanted is not None:
                    await asyncio.sleep(0.005)
            assert steps < 8  # of 9 at the least
            return sent

    asyncio.run(run())
    assert "seedtok_made_total{" not in app.state.service.metrics.text().decode()


def test_a_body_that_does_not_arrive_ends_the_wait(lm: SeedLM):
    app = create_app(lm, "tiny", Limits(body_seconds=0.1))

    async def run() -> list[dict]:
        async def trickles() -> AsyncIterator[dict]:
            while True:
                yield {"type": "http.request", "body": b" ", "more_body": True}
                await asyncio.sleep(0.03)

        async with app.router.lifespan_context(app):
            return await asyncio.wait_for(exchange(app, {}, trickles()), 10)

    assert asyncio.run(run())[0]["status"] == 408


@contextmanager
def connected(address: str, sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection with a small buffer for what it receives, which it does not read."""
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.settimeout(20)
        host, _, port = address.removeprefix("http://").partition(":")
        opened.connect((host, int(port)))
        opened.sendall(sent)
        yield opened


def is_closed(opened: socket.socket) -> bool:
    """Whether the server has closed a connection, or does so within the time limit."""
    with suppress(ConnectionError):
        while opened.recv(1 << 16):
            pass
    return True


def test_connections_without_a_whole_request_are_closed(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    whole = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for before, sent in ((b"", b""), (b"", whole[:20]), (whole, whole[:20])):
        with connected(address, before) as idle:
            start = time.monotonic()
            if before:
                assert idle.recv(1 << 16)
            idle.sendall(sent)
            assert is_closed(idle)
            assert time.monotonic() - start < 4  # before uvicorn's own limit for connections that are kept
    with connected(address, whole) as used:
        for answers in (1, 2):
            received = b""
            while b"owned_by" not in received:
                received += used.recv(1 << 16)
            assert b"HTTP/1.1 200" in received
            if answers == 1:
                time.sleep(0.5)
                used.sendall(whole)


def test_connections_whose_answers_are_not_read_are_closed(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "STUCK_SECONDS", 0.2)
    monkeypatch.setattr(connection, "SLOWEST", 1 << 30)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(address, request * 1000) as stuck:  # some 10 MB of answers
        time.sleep(1)
        received = b""
        with suppress(ConnectionError):
            while part := stuck.recv(1 << 16):
                received += part
        assert len(received) < 5_000_000


def test_connections_beyond_the_most_are_closed(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "MOST", 1)
    with connected(address), connected(address) as second:
        start = time.monotonic()
        assert is_closed(second)
        assert time.monotonic() - start < 4


# ---------------------------------------------------------------- faults of our own


def test_a_bug_is_500_and_tells_the_client_nothing(
    client: Callable, lm: SeedLM, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    server = client()

    def fail(*_: object, **__: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(type(lm), "draw_codes", fail)
    assert "secret" not in error_of(server.post(DRAW, json=FOX), 500, "internal_error")
    assert "a secret" in caplog.text

    def fail_otherwise(*_: object, **__: object) -> None:
        raise CheckpointError("/a/path/of/ours")

    monkeypatch.setattr(type(lm), "draw_codes", fail_otherwise)
    assert "/a/path" not in error_of(server.post(DRAW, json=FOX), 500, "internal_error")
    monkeypatch.undo()
    assert server.post(DRAW, json=FOX).status_code == 200


def test_a_dead_worker_is_not_healthy(client: Callable):
    server = client()
    assert server.get("/healthz").json() == {"status": "ok", "model": "tiny"}
    server.app.state.service.worker.close()
    error_of(server.get("/healthz"), 503, "not_running")
    error_of(server.post(DRAW, json=FOX), 503, "stopping")
