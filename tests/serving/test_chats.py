"""A model that was trained on chats gets the conversation in the format of its training: what `SeedLM.chat` answers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from seedtok.lm.native import INSTRUCTED_8B, PRETRAINED
from seedtok.lm.seed_lm import SeedLM
from seedtok.serving.app import create_app
from seedtok.tokenizer.seed import SeedTokenizer
from serving.helpers import alike, asked, data_url, opened, picture


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's context has 160 tokens."""
    monkeypatch.setattr("seedtok.lm.messages.LEAST_ROOM", 12)


@pytest.fixture(scope="module")
def chats(bases: dict, seed: SeedTokenizer) -> SeedLM:
    torch.manual_seed(2)
    model = SeedLM.build(bases["opt"], seed)
    return SeedLM(model.joint, model.seed, template=INSTRUCTED_8B)


@pytest.fixture(scope="module")
def client(chats: SeedLM) -> Iterator[Any]:
    from starlette.testclient import TestClient

    with TestClient(create_app(chats, "tiny"), raise_server_exceptions=False) as client:
        yield client


def said(role: str, text: str, *drawn: int) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": data_url(picture(number))}} for number in drawn]
    return {"role": role, "content": text, **({"images": images} if images else {})}


def reply(client: Any, messages: list, **options: Any) -> dict[str, Any]:
    response = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 12, "seed": 3, **options})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


def check(found: dict[str, Any], expected: list) -> None:
    assert found["content"] == " ".join(part for part in expected if isinstance(part, str))
    pictures = [part for part in expected if not isinstance(part, str)]
    drawn = [opened(image["image_url"]["url"]) for image in found.get("images") or []]
    assert len(drawn) == len(pictures)
    assert all(map(alike, drawn, pictures))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_all_turns_and_their_pictures_count(client: Any, chats: SeedLM):
    messages = [*asked("what", picture(1)), said("assistant", "a fox", 2), said("user", "go on")]
    turns = [[picture(1), "what"], ["a fox", picture(2)], ["go on"]]
    check(reply(client, messages), chats.chat(turns, noise(), 12))
    assert reply(client, messages) != reply(client, messages[-1:])


@pytest.mark.parametrize("text", ["draw a fox", "A photo of", "What is it?"])
def test_the_model_is_asked_in_the_users_words(client: Any, chats: SeedLM, text: str):
    check(reply(client, asked(text, picture(1))), chats.generate([picture(1), text], noise(), 12))


def test_the_system_is_of_the_users_side_and_neighbours_are_one_turn(client: Any, chats: SeedLM):
    messages = [
        said("assistant", "hello"),
        said("system", "be brief"),
        said("user", "what"),
        said("user", "is it"),
        said("assistant", "a"),
        said("assistant", "fox"),
        said("user", "why"),
        said("assistant", "left out"),
    ]
    turns = ["be brief\nwhat\nis it", "a\nfox", "why"]
    check(reply(client, messages), chats.chat(turns, noise(), 12))


def test_what_is_asked_for_in_the_request_is_done(client: Any, chats: SeedLM):
    """Of the user's last message, without what the system says."""
    system = said("system", "be brief")
    for text in ("draw a fox", "a fox"):
        drawn = reply(client, [system, *asked(text)], modalities=["image"])
        check(drawn, ["", *chats.draw("a fox", generator=[noise()])])
    answer = reply(client, [system, *asked("What is it?", picture(1))], num_beams=3)
    assert answer["content"] == chats.answer(picture(1), "What is it?", 3, max_new_tokens=12)[0]
    caption = reply(client, [system, *asked("", picture(1))], rerank=True)
    assert caption["content"] == chats.caption(picture(1), max_new_tokens=12, rerank=True)[0]


@pytest.mark.parametrize("options", [{"rerank": True}, {"num_beams": 5}])
def test_a_chat_without_a_picture_stays_one(client: Any, chats: SeedLM, options: dict):
    messages = [said("user", "my name"), said("assistant", "is"), said("user", "what")]
    check(reply(client, messages, **options), chats.chat(["my name", "is", "what"], noise(), 12))


def test_first_turns_are_left_out_where_there_is_no_room(client: Any, chats: SeedLM):
    long = [said("user", "a fox " * 60), said("assistant", "a"), *asked("go on")]
    check(reply(client, long), chats.generate("go on", noise(), 12))
    pictures = [*(asked("", *map(picture, range(9)))), said("assistant", "a")] * 2 + asked("go on", picture(1))
    check(reply(client, pictures), chats.generate([picture(1), "go on"], noise(), 12))


def test_what_is_too_long_is_refused(client: Any):
    for messages, words in (
        ([said("user", "a fox " * 60)], "this model takes 160"),
        ([said("user", "x" * 7000), said("assistant", "y" * 7000)] * 5 + asked("go on"), "a chat of 70,005 characters"),
        ([*asked("", *map(picture, range(9)))] * 2, "at most 16"),
        ([*asked("what", picture()), said("assistant", "a"), said("user", "")], "an empty prompt"),
        ([said("assistant", "look", 1), said("user", "")], "an empty prompt"),
    ):
        response = client.post("/v1/chat/completions", json={"messages": messages})
        assert response.status_code == 400
        assert words in response.json()["error"]["message"]


def test_a_model_of_single_turns_is_asked_by_its_own_template(bases: dict, seed: SeedTokenizer):
    """Token by token too, where the prompt is not made by `SeedLM.answer`."""
    from starlette.testclient import TestClient

    model = SeedLM(SeedLM.build(bases["opt"], seed).joint, seed, template=PRETRAINED)
    with TestClient(create_app(model, "tiny")) as client:
        found = reply(client, asked("What is it?", picture(1)), num_beams=1)
    check(found, model.generate([picture(1), "Question: What is it?\nAnswer:"], noise(), 12, 0))
