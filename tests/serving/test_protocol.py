"""The official client of OpenAI's protocol, unchanged: what it gets is what the library gives."""

import pytest
import torch
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.chat import ChatCompletion
from PIL import Image

from seedtok.lm.decoding import Sampling
from seedtok.lm.prompts import question_prompt
from seedtok.lm.seed_lm import SeedLM
from serving.helpers import alike, asked, data_url, opened, picture


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def openai(address: str) -> OpenAI:
    return OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)


def text_of(completion: ChatCompletion) -> str:
    return completion.choices[0].message.content or ""


def drawn_in(completion: ChatCompletion) -> list[Image.Image]:
    return [opened(image["image_url"]["url"]) for image in getattr(completion.choices[0].message, "images", [])]


def test_models(openai: OpenAI):
    assert [model.id for model in openai.models.list()] == ["tiny"]
    assert openai.models.retrieve("tiny").owned_by == "seedtok"
    with pytest.raises(NotFoundError, match="no model 'gpt-4' here; this server has 'tiny'"):
        openai.chat.completions.create(model="gpt-4", messages=asked("a fox"))


# ---------------------------------------------------------------- chat


@pytest.mark.parametrize("text", ["", "A photo of", "a photo of..."])
def test_a_picture_alone_is_captioned(openai: OpenAI, lm: SeedLM, text: str):
    completion = openai.chat.completions.create(model="tiny", messages=asked(text, picture()))
    assert text_of(completion) == lm.caption(picture())[0]
    assert completion.usage
    assert completion.usage.prompt_tokens > 34
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


@pytest.mark.parametrize("text", ["What is it?", "Question: What is it? Short answer."])
def test_a_question_about_a_picture_is_answered(openai: OpenAI, lm: SeedLM, text: str):
    completion = openai.chat.completions.create(model="tiny", messages=asked(text, picture(1)), temperature=0)
    assert text_of(completion) == lm.answer(picture(1), "What is it?")[0]


def test_a_question_without_a_picture_is_about_the_latest(openai: OpenAI, lm: SeedLM):
    drawn = {
        "role": "assistant",
        "content": "",
        "images": [{"type": "image_url", "image_url": {"url": data_url(picture(2))}}],
    }
    messages = [*asked("draw", picture(1)), drawn, *asked("What is it?")]
    assert (
        text_of(openai.chat.completions.create(model="tiny", messages=messages))
        == lm.answer(picture(2), "What is it?")[0]
    )


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "gif"])
def test_formats_of_pictures(openai: OpenAI, lm: SeedLM, kind: str):
    url = data_url(picture(3), kind)
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    assert text_of(openai.chat.completions.create(model="tiny", messages=messages)) == lm.caption(opened(url))[0]


def test_lengths_beams_and_stops(openai: OpenAI, lm: SeedLM):
    greedy = openai.chat.completions.create(
        model="tiny", messages=asked("", picture()), max_completion_tokens=3, extra_body={"num_beams": 1}
    )
    assert [text_of(greedy)] == lm.generate([picture(), "A photo of"], max_images=0, max_new_tokens=3)
    assert greedy.choices[0].finish_reason == "length"
    reranked = openai.chat.completions.create(model="tiny", messages=asked("", picture()), extra_body={"rerank": True})
    assert text_of(reranked) == lm.caption(picture(), rerank=True)[0]
    with pytest.raises(BadRequestError, match="rerank chooses among"):
        openai.chat.completions.create(
            model="tiny", messages=asked("", picture()), extra_body={"rerank": True, "num_beams": 1}
        )
    whole = lm.caption(picture())[0]
    stop = whole[3:5]
    stopped = openai.chat.completions.create(model="tiny", messages=asked("", picture()), stop=["\0", stop])
    assert text_of(stopped) == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_client_may_ask_for_longer_texts(openai: OpenAI, lm: SeedLM):
    said = {"model": "tiny", "messages": asked("What is it?", picture(1))}
    longer = openai.chat.completions.create(**said, max_tokens=25)
    assert text_of(longer) == lm.answer(picture(1), "What is it?", max_new_tokens=25)[0]
    caption = openai.chat.completions.create(model="tiny", messages=asked("", picture()), max_tokens=50)
    assert text_of(caption) == lm.caption(picture(), max_new_tokens=50)[0]


def test_what_does_not_fit_into_the_context_is_not_written(openai: OpenAI, lm: SeedLM):
    """As OpenAI's own server: the text ends where the context does, and says so."""
    said = {"model": "tiny", "messages": asked("What is it?", picture(1)), "max_tokens": 2**31 - 1}
    prompt = [lm.seed.encode(picture(1))[0], question_prompt("What is it?")]
    room = lm.joint.context - len(lm.joint.sequence(prompt))
    found = openai.chat.completions.create(**said)
    assert text_of(found) == lm.answer(picture(1), "What is it?", max_new_tokens=room)[0]
    greedy = openai.chat.completions.create(**said, extra_body={"num_beams": 1})
    assert [text_of(greedy)] == lm.generate(prompt, max_images=0, max_new_tokens=room)


@pytest.mark.parametrize("text", ["Draw a fox", "Generate an image a fox", "please draw me a picture of a fox"])
def test_drawing_in_a_chat(openai: OpenAI, lm: SeedLM, text: str):
    prompt = "a fox"
    completion = openai.chat.completions.create(model="tiny", messages=asked(text), seed=5)
    [found] = drawn_in(completion)
    assert text_of(completion) == ""
    assert alike(found, lm.draw(prompt, generator=[noise(5)])[0])


def test_modalities_choose_between_text_and_picture(openai: OpenAI, lm: SeedLM):
    said = {"model": "tiny", "messages": asked("What is it?", picture()), "seed": 1}
    [found] = drawn_in(openai.chat.completions.create(**said, extra_body={"modalities": ["image"]}))
    assert alike(found, lm.draw("What is it?", generator=[noise(1)])[0])
    said["messages"] = asked("draw a fox", picture())
    completion = openai.chat.completions.create(**said, modalities=["text"])
    assert text_of(completion) == lm.answer(picture(), "draw a fox")[0]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_texts_and_pictures_go_on_as_the_library_does(openai: OpenAI, lm: SeedLM, temperature: float):
    completion = openai.chat.completions.create(
        model="tiny",
        messages=asked("a red", picture(1), picture(2)),
        temperature=temperature,
        seed=3,
        top_p=0.9,
        max_tokens=12,
    )
    made = lm.generate(
        [picture(1), picture(2), "a red"], noise(3),
        sampling=Sampling(temperature, 0.9, noise(3)), max_new_tokens=12,
    )  # fmt: skip
    assert text_of(completion) == " ".join(part for part in made if isinstance(part, str))
    expected = [part for part in made if not isinstance(part, str)]
    assert len(drawn_in(completion)) == len(expected)
    assert all(map(alike, drawn_in(completion), expected))


# ---------------------------------------------------------------- streaming


@pytest.mark.parametrize(
    "options",
    [{}, {"extra_body": {"num_beams": 1}}, {"temperature": 1.0, "seed": 2}, {"stop": "a"}],
    ids=["beams", "greedy", "sampled", "stop"],
)
@pytest.mark.parametrize("text", ["", "What is it?"])
def test_a_stream_is_the_answer_in_pieces(openai: OpenAI, text: str, options: dict):
    said = {"model": "tiny", "messages": asked(text, picture(4)), **options}
    whole = openai.chat.completions.create(**said)
    chunks = list(openai.chat.completions.create(**said, stream=True, stream_options={"include_usage": True}))
    *events, finish, usage = chunks
    assert "".join(event.choices[0].delta.content or "" for event in events).strip() == text_of(whole)
    assert finish.choices[0].finish_reason == whole.choices[0].finish_reason
    assert usage.usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_of_a_drawing(openai: OpenAI, lm: SeedLM):
    chunks = list(openai.chat.completions.create(model="tiny", messages=asked("draw a fox"), seed=5, stream=True))
    [images] = [chunk.choices[0].delta.images for chunk in chunks if hasattr(chunk.choices[0].delta, "images")]
    assert alike(opened(images[0]["image_url"]["url"]), lm.draw("a fox", generator=[noise(5)])[0])


def test_pictures_of_a_stream_come_between_its_texts(openai: OpenAI, lm: SeedLM, monkeypatch: pytest.MonkeyPatch):
    drawn = picture(9)

    def generate(*_, on_text, on_image, **__):
        for part in ("a ", "red", drawn, "  a ", "fox"):
            (on_text if isinstance(part, str) else on_image)(part)
        return ["a red", drawn, "a fox"]

    monkeypatch.setattr(lm, "chat", generate)
    chunks = openai.chat.completions.create(model="tiny", messages=asked("go on"), stream=True)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    texts = ["image" if hasattr(delta, "images") else delta.content for delta in deltas]
    assert texts == ["", "a ", "red", "image", " a ", "fox", None]
    [images] = [delta.images for delta in deltas if hasattr(delta, "images")]
    assert images[0]["index"] == 0
    assert alike(opened(images[0]["image_url"]["url"]), drawn)


def test_what_is_wrong_with_a_stream_is_an_error_of_http(openai: OpenAI):
    with pytest.raises(BadRequestError, match="this model takes 160: shorten it"):
        openai.chat.completions.create(model="tiny", messages=asked("draw " + "a fox " * 300), stream=True)


# ---------------------------------------------------------------- pictures and codes


def test_images_generate(openai: OpenAI, lm: SeedLM):
    found = openai.images.generate(model="tiny", prompt="a fox", extra_body={"seed": 7})
    assert found.data
    assert alike(opened(found.data[0].b64_json or ""), lm.draw("a fox", generator=[noise(7)])[0])
    assert found.size == "128x128"


def test_several_images_are_sampled(openai: OpenAI, lm: SeedLM):
    found = openai.images.generate(model="tiny", prompt="a fox", n=3, extra_body={"seed": 7})
    expected = lm.draw(["a fox"] * 3, sampling=Sampling(1.0, 1.0, noise(7)), generator=[noise(7) for _ in range(3)])
    assert found.data
    assert all(alike(opened(image.b64_json or ""), other) for image, other in zip(found.data, expected, strict=True))


def test_sizes_and_formats(openai: OpenAI):
    said = {"model": "tiny", "prompt": "a fox", "size": "64x200", "output_format": "jpeg", "response_format": "url"}
    found = openai.images.generate(**said)
    assert found.data
    image = opened(found.data[0].url or "")
    assert (image.size, image.format, found.size) == ((64, 200), "JPEG", "64x200")


def test_pictures_to_codes_and_back(openai: OpenAI, lm: SeedLM):
    pictures = [picture(number) for number in range(20)]
    body = {"images": [data_url(image) for image in pictures[:16]]}
    found = openai.post("/seed/encode", body=body, cast_to=dict)
    codes = lm.seed.encode(pictures[:16])
    assert [row["codes"] for row in found["data"]] == codes.tolist()
    assert found["codebook"] == lm.seed.codebook_id
    assert found["encoder"] == lm.seed.encoder_fingerprint
    body = {"codes": codes[:3].tolist(), "codebook": found["codebook"], "seed": 4, "steps": 3, "guidance_scale": 1.5}
    drawn = openai.post("/seed/decode", body=body, cast_to=dict)
    expected = lm.seed.decode(codes[:3], 3, 1.5, [noise(4) for _ in range(3)])
    assert all(alike(opened(row["b64_json"]), other) for row, other in zip(drawn["data"], expected, strict=True))


def test_the_client_is_told_of_words_the_model_does_not_know(
    openai: OpenAI, lm: SeedLM, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(lm.joint.text_tokenizer.init_kwargs, "known_words", ["a", "fox"])
    with pytest.warns(match="not trained on"):
        found = openai.chat.completions.create(model="tiny", messages=asked("draw a zebra"))
    assert found.warnings == ["words that this model was not trained on: zebra"]  # type: ignore[attr-defined]
    assert not hasattr(openai.chat.completions.create(model="tiny", messages=asked("draw a fox")), "warnings")
