"""The command itself: a process that starts, answers, finishes what has begun when it is stopped, and starts again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from openai import APIConnectionError, AuthenticationError, OpenAI

from seedtok.core.errors import ConfigError
from seedtok.lm.seed_lm import SeedLM
from seedtok.serving.run import from_short_thread
from seedtok.tokenizer.seed import SeedTokenizer
from serving.helpers import asked, data_url, picture
from tiny_lms import save_llama_of_blocks

KEY = "correct-horse-battery"


@contextmanager
def served(folder: Path, port: int, *options: object) -> Iterator[tuple[subprocess.Popen[str], list[dict], int]]:
    """A server as a process; gives its log so far, and its port."""
    drawing = () if "encoder" in options else ("--drawing-dtype", "float32")
    process = subprocess.Popen(
        [sys.executable, "-m", "seedtok", "serve", "--model", folder, "--port", str(port), "--device", "cpu",
         "--no-page", *drawing, *map(str, options)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stderr
    log: list[dict] = []
    lines = iter(process.stderr)
    try:
        while not log or log[-1]["event"] != "Application startup complete.":
            log.append(json.loads(next(lines)))
        address = next(line["address"] for line in log if "address" in line)
        reader = threading.Thread(target=lambda: log.extend(map(json.loads, lines)))
        reader.start()
        yield process, log, int(address.rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def client_of(port: int, key: str = KEY) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)


@pytest.mark.slow
def test_a_server_answers_drains_and_starts_again(lm: SeedLM, lm_folder: Path, tmp_path: Path):
    (tmp_path / "keys").write_text(KEY)
    options = ("--api-key-file", tmp_path / "keys")
    expected = lm.caption(picture())[0]
    with served(lm_folder, 0, *options) as (process, log, port):
        client = client_of(port)
        found = client.chat.completions.create(model="tiny", messages=asked("", picture()))
        assert found.choices[0].message.content == expected
        with pytest.raises(AuthenticationError):
            client_of(port, "wrong").models.list()

        drawn: list[int] = []
        threads = [threading.Thread(target=lambda: drawn.append(draw_many(client))) for _ in range(3)]
        for thread in threads:
            thread.start()
        headers = {"Authorization": f"Bearer {KEY}"}
        while "seedtok_open_requests 4.0" not in httpx2.get(f"http://127.0.0.1:{port}/metrics", headers=headers).text:
            time.sleep(0.01)  # the one that asks is the fourth
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert drawn == [10, 10, 10]  # what had begun was finished
        assert process.wait(60) == 143
        with pytest.raises(APIConnectionError):
            client.models.list()
        asked_for = [line for line in log if line["event"] == "request"]
        assert {line["status"] for line in asked_for} == {200, 401}
        assert all(set(line) >= {"time", "level", "id", "method", "path", "seconds", "bytes"} for line in asked_for)
        assert not any("fox" in json.dumps(line) or KEY in json.dumps(line) for line in log)
    with served(lm_folder, port, *options) as (process, _, _):  # the same port, at once; and the same client
        found = client.chat.completions.create(model="tiny", messages=asked("", picture()))
        assert found.choices[0].message.content == expected
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.slow
@pytest.mark.parametrize("only", ["tokenizer", "encoder"])
def test_an_image_tokenizer_is_served_without_a_language_model(tiny_tokenizer: Path, only: str):
    with served(tiny_tokenizer, 0, "--only", only) as (_, _, port):
        asked_for = {"images": [data_url(picture())]}
        found = httpx2.post(f"http://127.0.0.1:{port}/v1/seed/encode", json=asked_for).json()
        codes = SeedTokenizer.from_pretrained(tiny_tokenizer).encode(picture()).tolist()
        assert [row["codes"] for row in found["data"]] == codes
        drawn = httpx2.post(f"http://127.0.0.1:{port}/v1/seed/decode", json={"codes": codes, "steps": 1})
        assert drawn.status_code == (200 if only == "tokenizer" else 404)


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantized_model_is_served(seed: SeedTokenizer, tmp_path: Path, bits: str):
    pytest.importorskip("bitsandbytes")
    lm = SeedLM.build(save_llama_of_blocks(tmp_path / "base"), seed)
    lm.save_pretrained(tmp_path / "lm", standalone=True)
    quantized = SeedLM.from_pretrained(tmp_path / "lm", quantize=bits)
    with served(tmp_path / "lm", 0, "--quantize", bits) as (_, _, port):
        client = client_of(port)
        found = client.chat.completions.create(model="lm", messages=asked("", picture()))
        assert found.choices[0].message.content == quantized.caption(picture())[0]
        assert draw_many(client) == 10


def draw_many(client: OpenAI) -> int:
    return len(client.images.generate(prompt="a fox", n=10).data or [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "nowhere-at-all"), "nowhere-at-all"),
        (("--api-key-file", "nowhere"), "No such file"),
        (("--host", "256.1.1.1"), "cannot listen on '256.1.1.1', port 8000"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--dtype", "bfloat16", "--drawing-dtype", "float32"), "--drawing-dtype float32 needs --dtype float32"),
    ],
)
def test_what_is_wrong_with_the_command_is_a_line(cli: Callable, options: tuple[str, ...], message: str):
    code, _, errors = cli("serve", "--no-page", *options)
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_a_model_is_loaded_in_a_thread_that_ends():
    """Else OpenMP's threads of the main thread slow those of the worker."""
    threads = []

    def load() -> int:
        threads.append(threading.current_thread())
        if len(threads) == 2:
            raise ConfigError("no such model")
        return 3

    assert from_short_thread(load) == 3
    assert threads[0] is not threading.main_thread()
    assert not threads[0].is_alive()
    with pytest.raises(ConfigError, match="no such model"):
        from_short_thread(load)


def test_what_is_not_installed_is_named(cli: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "seedtok.serving.run", raising=False)
    message = "error: this needs uvicorn, which is not installed: pip install 'seedtok[serve]'\n"
    assert cli("serve", "--no-page") == (2, "", message)


def test_without_gradio_there_is_no_page(cli: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("seedtok.cli.serve.find_spec", lambda name: None)  # as where it is not installed
    message = "error: the web page needs gradio: pip install 'seedtok[serve]', or serve without it: --no-page\n"
    assert cli("serve") == (2, "", message)
