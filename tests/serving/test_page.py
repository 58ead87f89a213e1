"""The page in a browser without a window: each tab does its work, and none is wider than a screen of 390 pixels.

And what of gradio can be reached by those who do not use the page: its files, and nothing else.
"""

import re
import shutil
import time
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from PIL import Image

from seedtok.lm.prompts import CAPTION, question_prompt
from seedtok.lm.seed_lm import SeedLM
from seedtok.serving.page.paths import is_page
from serving.conftest import listening_server
from serving.helpers import alike, opened, picture
from serving.test_hostile import check_untouched, watched

pytest.importorskip("gradio")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HAS_BROWSER = CHROMIUM is not None and find_spec("playwright") is not None
needs_browser = pytest.mark.skipif(not HAS_BROWSER, reason="needs Chromium and playwright")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
WAIT = 60_000  # milliseconds
KEY = "correct-horse"
ANSWER = "#chat-log [data-testid=bot]"

pytestmark = pytest.mark.slow


# ---------------------------------------------------------------- without the page


@pytest.fixture(scope="module")
def served(lm: SeedLM) -> Iterator[Any]:
    """An ASGI client of a server that has the page, and asks for a key."""
    from starlette.testclient import TestClient

    from seedtok.serving.app import create_app

    with TestClient(create_app(lm, "tiny", keys=(KEY,), with_page=True), raise_server_exceptions=False) as client:
        yield client


def test_its_files_need_no_key_and_hold_browsers_to_this_server(served: Any):
    for path in ("/", "/config", "/theme.css", "/page/events.js", "/page/style.css"):
        found = served.get(path, headers={"Origin": "https://elsewhere.example"})
        assert found.status_code == 200, path
        policy = found.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert not [name for name in found.headers if name.startswith("access-control-")]
    for script in (Path(__file__).parents[2] / "src/seedtok/serving/page/static").iterdir():
        assert not re.search(r"(https?:)?//[a-z]", re.sub(r"^\s*//.*$", "", script.read_text(), flags=re.MULTILINE))
    assert served.get("/v1/models").status_code == 401


GRADIO = "/gradio_api"
HOSTILE = [
    f"{GRADIO}/file=/etc/passwd", f"{GRADIO}/file=SECRET", f"{GRADIO}/file/SECRET", f"{GRADIO}/proxy=http://10.0.0.1/",
    f"{GRADIO}/file=http://10.0.0.1/", "/file=SECRET", "/proxy=http://10.0.0.1/", f"{GRADIO}/upload",
    f"{GRADIO}/upload_progress?upload_id=1", f"{GRADIO}/queue/join", f"{GRADIO}/queue/data?session_hash=a",
    f"{GRADIO}/run/predict", f"{GRADIO}/api/predict", f"{GRADIO}/call/predict", f"{GRADIO}/call/v2/predict",
    f"{GRADIO}/component_server", f"{GRADIO}/vibe-edit", f"{GRADIO}/heartbeat/a", f"{GRADIO}/startup-events",
    f"{GRADIO}/run-history/connect", f"{GRADIO}/runs", f"{GRADIO}/deep_link", f"{GRADIO}/mcp/", f"{GRADIO}/info",
    f"{GRADIO}/openapi.json", f"{GRADIO}/dev/reload", f"{GRADIO}/stream/a/0/0/playlist.m3u8", "/login", "/monitoring",
    f"{GRADIO}/custom_component/a/client/component/../../../../SECRET", "/svelte/../SECRET", "/run/predict",
    "/assets/..%2f..%2f..%2f..%2fSECRET", "/assets//etc/passwd", "/static/%2e%2e/%2e%2e/SECRET", "/assets/.hidden",
    "/page/..%2fmount.py", "/page/mount.py", "/page/", "/assets/C:%5CSECRET", "/static/img%00.svg",
]  # fmt: skip


def test_nothing_else_of_gradio_is_there(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    secret = tmp_path / "secret.png"
    picture().save(secret)
    claimed = {"path": str(secret), "url": "http://10.0.0.1/a.png", "meta": {"_type": "gradio.FileData"}}
    body = {"data": [claimed], "fn_index": 0, "session_hash": "a", "event_id": "b"}
    files = {"files": ("a.png", secret.read_bytes(), "image/png")}
    headers = {"Authorization": f"Bearer {KEY}"}
    with watched(monkeypatch) as seen:
        for path in HOSTILE:
            path = path.replace("SECRET", str(secret).lstrip("/"))
            for answer in (
                served.get(path, headers=headers),
                served.post(path, headers=headers, json=body),
                served.post(path, headers=headers, files=files),
            ):
                assert answer.status_code in (404, 405), (path, answer.status_code)
                assert answer.json()["error"]["code"] in ("not_found", "method_not_allowed")
    check_untouched(seen, secret)


def test_hostile_headers_and_queries_are_no_errors(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    secret = tmp_path / "secret.png"
    picture().save(secret)
    with watched(monkeypatch) as seen:
        for host in (
            "a b",
            "[::::]:99999",
            "x:99999",
            "999.1.1.1",
            "1.2.3",
            "[1.2.3.4]",
            "a..b",
            "-",
            "..",
            "[::1]:80",
            "http://10.0.0.1",
            'a"><script>',
            "../..",
            "",
        ):
            for name in ("host", "x-forwarded-host"):
                assert served.get("/", headers={name: host}).status_code in (200, 400), host
        for more in (
            {"x-gradio-server": f"file://{secret}"}, {"x-direct-url": "http://10.0.0.1"}, {"referer": "\x7f"},
            {"cookie": "access-token=../../secret"}, {"x-forwarded-proto": "https, javascript"},
        ):  # fmt: skip
            assert served.get("/", headers=more).status_code == 200
        for query in ("deep_link=../../secret.png", "deep_link=" + "a" * 22, "__theme=dark&view=api", "%00=%ff"):
            assert served.get(f"/?{query}").status_code == 200
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert served.request(method, "/", headers={"Authorization": f"Bearer {KEY}"}).status_code == 405
    check_untouched(seen, secret)


def test_which_paths_are_the_pages():
    assert all(map(is_page, ("/", "/config", "/assets/a-B_1.js", "/static/fonts/a/b.woff2", "/page/api.js")))
    assert not any(map(is_page, ("/v1/models", "/metrics", "/assets", "/assets/", "/assets/a/../b", "/assets/.a")))
    assert not any(map(is_page, ("", "//", "/config/", "/page", "/page/a/b", "/assets/a//b", "/gradio_api/info")))


def test_the_codes_nearest_to_one(served: Any, lm: SeedLM):
    headers = {"Authorization": f"Bearer {KEY}"}
    table = lm.seed.codebook.weight
    distances = torch.cdist(table[7:8], table)[0]
    found = served.get("/v1/seed/codes/7?count=5", headers=headers).json()
    assert [near["code"] for near in found["data"]] == distances.argsort()[:5].tolist()
    assert [near["distance"] for near in found["data"]] == pytest.approx(distances.sort()[0][:5].tolist(), abs=1e-4)
    assert served.get(f"/v1/seed/codes/{len(table)}", headers=headers).status_code == 404
    for wrong in ("-1", "a", "7?count=0", "7?count=101", f"{2**31}"):
        assert served.get(f"/v1/seed/codes/{wrong}", headers=headers).status_code == 400


# ---------------------------------------------------------------- with a browser


@pytest.fixture(scope="module")
def page_address(lm: SeedLM) -> Iterator[str]:
    with listening_server(lm, keys=(KEY,), with_page=True) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, page_address: str) -> Iterator[Any]:
    """The page, which has been given a key. Nothing may be wrong with it, wider than the screen or from elsewhere."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT)
    faults: list[str] = []
    own = (page_address, "data:", f"blob:{page_address}")
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith(own) else faults.append(asked.url))
    page.goto(page_address)
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    page.wait_for_selector("#model:has-text('tiny')")
    yield page
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_function("document.querySelectorAll('[role=tab]').length == 6")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [fault for fault in faults if "Failed to load resource" not in fault] == []  # 401 and 404 are answers
    page.close()


def file_of(number: int) -> list[dict[str, Any]]:
    """A random image, as a browser's file field takes it."""
    data = BytesIO()
    picture(number).save(data, format="PNG")
    return [{"name": f"{number}.png", "mimeType": "image/png", "buffer": data.getvalue()}]


def choose(page: Any, name: str, number: int) -> None:
    field = f"input[aria-label='{name}']"
    page.set_input_files(field, file_of(number))
    page.wait_for_selector(f".picker.filled:has({field})")


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    page.wait_for_selector(f"[role=tab][aria-selected=true]:has-text('{name}')")


def wait_for_notice(page: Any, text: str) -> None:
    page.wait_for_selector(f"#notice:has-text('{text}')")


def codes_in(page: Any, place: str, count: int = 32) -> list[int]:
    page.wait_for_selector(f"#{place} .tile:nth-child({count})")
    return [int(text) for text in page.locator(f"#{place} .tile").all_inner_texts()]


def wait_for_codes(page: Any, codes: list[int]) -> None:
    """Waits until these are the codes that the explorer draws."""
    shown = "Array.from(document.querySelectorAll('#codes-mixed .tile'), tile => Number(tile.innerText))"
    page.wait_for_function(f"codes => {shown}.join() == codes.join()", arg=codes)


def wait_for_drawing(page: Any, place: str, expected: Image.Image) -> None:
    """Waits until a place shows an image."""
    last = None
    for _ in range(WAIT // 100):
        found = page.locator(f"#{place} .canvas img")
        last = found.get_attribute("src") if found.count() else None
        if last and alike(opened(last), expected):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{place} shows {'another image' if last else 'none'}")


def drawn(lm: SeedLM, codes: list[int]) -> Image.Image:
    return lm.seed.decode([codes], generator=[torch.Generator().manual_seed(0)])[0]


def value_of(page: Any, place: str, expected: str) -> None:
    """Waits until a text field has a value."""
    page.wait_for_function(
        "([place, text]) => document.querySelector(`#${place} textarea`).value == text", arg=[place, expected]
    )


def wait_for_turn(page: Any, expected: str) -> None:
    """Waits until the chat has a text, whatever its spaces."""
    script = r"text => document.querySelector('#chat-log').innerText.replace(/[^\p{L}]/gu, '').includes(text)"
    page.wait_for_function(script, arg="".join(filter(str.isalpha, expected)))


@needs_browser
def test_an_image_is_seen_captioned_and_asked_about(page: Any, lm: SeedLM):
    page.click("#see-run")
    wait_for_notice(page, "Choose an image first")
    choose(page, "Image", 1)
    page.click("#see-run")
    codes = lm.seed.encode(picture(1))[0].tolist()
    assert codes_in(page, "see-codes") == codes
    wait_for_drawing(page, "see-drawn", drawn(lm, codes))
    open_tab(page, "Caption")  # the image is there already
    page.click("#caption-run")
    value_of(page, "caption-text", lm.caption(picture(1))[0])
    open_tab(page, "Ask")
    page.fill("#ask-question textarea, #ask-question input", "What is it?")
    page.press("#ask-question textarea, #ask-question input", "Enter")
    value_of(page, "ask-text", lm.answer(picture(1), "What is it?")[0])
    page.set_input_files("input[aria-label='Image']", [{"name": "a.png", "mimeType": "image/png", "buffer": b"no"}])
    wait_for_notice(page, "not an image")


@needs_browser
def test_images_are_drawn_and_used(page: Any, lm: SeedLM):
    open_tab(page, "Draw")
    page.fill("#draw-prompt textarea, #draw-prompt input", "a fox")
    page.fill("#draw-count input[type=number]", "2")
    page.click("#draw-run")
    page.wait_for_selector("#draw-images figure:nth-child(2) img")
    page.locator("#draw-images button").first.click()
    wait_for_notice(page, "the image of See")
    open_tab(page, "Caption")
    page.wait_for_selector(".picker.filled:visible")
    used = page.locator(".picker.filled:visible img").get_attribute("src")
    page.click("#caption-run")
    value_of(page, "caption-text", lm.caption(opened(used).convert("RGB"))[0])


@needs_browser
def test_a_chat_has_texts_and_images(page: Any, lm: SeedLM):
    open_tab(page, "Chat")
    choose(page, "Image to send", 2)
    page.click("#chat-run")
    wait_for_turn(page, written(lm, picture(2), CAPTION, 30))
    page.fill("#chat-text textarea, #chat-text input", "draw a fox")
    page.click("#chat-run")
    image = opened(page.locator("#chat-log img").nth(1).get_attribute("src")).convert("RGB")
    page.fill("#chat-text textarea, #chat-text input", "What is it?")
    page.click("#chat-run")
    wait_for_turn(page, written(lm, image, question_prompt("What is it?"), 10))


@needs_browser
def test_an_answer_grows_in_the_chat_and_can_be_stopped(
    page: Any, page_address: str, lm: SeedLM, monkeypatch: pytest.MonkeyPatch
):
    words = [f"word{number} " for number in range(600)]

    def generate(*_, on_text, **__):
        for word in words:
            time.sleep(0.1)
            lm.joint.states(lm.joint.embed(torch.tensor([[5]])))  # where the server stops what nobody waits for
            on_text(word)
        return ["".join(words)]

    open_tab(page, "Chat")
    assert not page.locator("#chat-stop").is_visible()
    with monkeypatch.context() as patched:
        patched.setattr(lm, "chat", generate)
        choose(page, "Image to send", 2)
        page.click("#chat-run")
        page.wait_for_selector("#chat-stop", state="visible")
        page.wait_for_selector("#chat-log img")  # what was sent is shown at once
        for number in (3, 6):
            page.wait_for_selector(f"{ANSWER}:has-text('word{number} ')")
        assert "".join(words).startswith(page.locator(ANSWER).inner_text())
        page.fill("#chat-text textarea, #chat-text input", "and this")
        page.press("#chat-text textarea, #chat-text input", "Enter")
        wait_for_notice(page, "An answer is being written")
        page.click("#chat-stop")
        page.wait_for_selector("#chat-run", state="visible")
        stopped = page.locator(ANSWER).inner_text()
        while "seedtok_cancelled_total 1.0" not in metrics(page_address):
            page.wait_for_timeout(100)
        assert page.locator(ANSWER).inner_text() == stopped
    page.fill("#chat-text textarea, #chat-text input", "draw a fox")
    page.click("#chat-run")
    page.wait_for_selector("#chat-log img >> nth=1")


def written(lm: SeedLM, image: Image.Image, prompt: str, length: int) -> str:
    """What the model writes token by token."""
    return " ".join(map(str, lm.generate([image, prompt], max_images=0, max_new_tokens=length)))


def metrics(address: str) -> str:
    return httpx2.get(f"{address}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text


@needs_browser
def test_the_explorer_splices_two_images_and_replaces_a_code(page: Any, lm: SeedLM):
    open_tab(page, "Explore")
    choose(page, "Image A", 1)
    choose(page, "Image B", 2)
    first, second = lm.seed.encode([picture(1), picture(2)]).tolist()
    assert codes_in(page, "codes-b") == second
    assert codes_in(page, "codes-a") == first
    slider = page.locator("#splice input[type=range]")
    slider.fill("10")
    slider.dispatch_event("pointerup")
    spliced = [*first[:10], *second[10:]]
    wait_for_codes(page, spliced)
    wait_for_drawing(page, "explore-drawn", drawn(lm, spliced))

    page.locator("#codes-mixed .tile").nth(3).click()
    near = codes_in(page, "nearest", 8)
    table = lm.seed.codebook.weight
    assert near == torch.cdist(table[spliced[3]][None], table)[0].argsort()[1:9].tolist()
    page.locator("#nearest .tile").nth(2).click()
    replaced = [*spliced[:3], near[2], *spliced[4:]]
    wait_for_codes(page, replaced)
    wait_for_drawing(page, "explore-drawn", drawn(lm, replaced))
    page.fill("#replace-code input", str(len(table)))
    page.click("#replace-run")
    wait_for_notice(page, f"codes are from 0 to {len(table) - 1}")

    page.click("#prefixes")
    page.wait_for_selector("#prefix-images figure:nth-child(9) img")
    for number in (0, 3, 8):
        shown = page.locator("#prefix-images img").nth(number).get_attribute("src")
        assert alike(opened(shown), drawn(lm, [*first[: 4 * number], *second[4 * number :]]))


@needs_browser
def test_an_image_unlike_those_of_training_is_said_to_be(page: Any, lm: SeedLM, monkeypatch: pytest.MonkeyPatch):
    from seedtok.tokenizer.familiarity import Familiarity

    width = lm.seed.config.embedder.vision.width
    strict = Familiarity(torch.zeros(2 * width), torch.zeros(2 * width, 1), torch.tensor(1e-9))
    monkeypatch.setattr(lm.seed, "familiarity", strict)
    choose(page, "Image", 3)
    page.click("#see-run")
    wait_for_notice(page, "far from those")
    open_tab(page, "Caption")
    page.click("#caption-run")
    wait_for_notice(page, "far from those")


@needs_browser
def test_a_key_is_asked_for_once(page: Any):
    page.reload()
    page.wait_for_selector("#model:has-text('tiny')")
    assert page.locator("#key").count() == 0
