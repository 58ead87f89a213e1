"""A server of an image tokenizer: pictures to codes and back, and nothing of a language model."""

from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from seedtok.core.errors import CheckpointError
from seedtok.serving.app import create_app
from seedtok.tokenizer.seed import SeedTokenizer
from serving.helpers import asked, data_url, opened, picture


@pytest.mark.parametrize("draws", [True, False])
def test_a_tokenizer_is_served_without_a_language_model(seed: SeedTokenizer, draws):
    with TestClient(create_app(seed, "seed", draws=draws), raise_server_exceptions=False) as client:
        assert client.get("/healthz").json()["model"] == "seed"
        found = client.post("/v1/seed/encode", json={"images": [data_url(picture(n)) for n in range(3)]}).json()
        codes = [row["codes"] for row in found["data"]]
        assert codes == seed.encode([picture(n) for n in range(3)]).tolist()
        assert (found["codebook"], found["encoder"]) == (seed.codebook_id, seed.encoder_fingerprint)
        near = client.get(f"/v1/seed/codes/{codes[0][0]}?count=2").json()
        assert near["data"][0] == {"code": codes[0][0], "distance": 0.0}
        drawn = client.post("/v1/seed/decode", json={"codes": codes[:1], "seed": 0, "steps": 1})
        if draws:
            assert opened(drawn.json()["data"][0]["b64_json"]).size == seed.decode(codes[:1], 1)[0].size
        else:
            assert (drawn.status_code, drawn.json()["error"]["code"]) == (404, "no_image_decoder")
        for path, body in (
            ("/v1/chat/completions", {"messages": asked("A photo of", picture())}),
            ("/v1/images/generations", {"prompt": "a fox"}),
        ):
            refused = client.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_language_model")
            assert "/v1/seed/encode" in refused.json()["error"]["message"]


def test_without_an_image_decoder_it_encodes(seed: SeedTokenizer, tmp_path):
    seed.save_pretrained(tmp_path, standalone=False)
    lacking = SeedTokenizer.from_pretrained(tmp_path)
    lacking.config = replace(lacking.config, image_decoder=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError):
        create_app(lacking, "seed")
    with TestClient(create_app(lacking, "seed", draws=False)) as client:
        assert client.post("/v1/seed/encode", json={"images": [data_url(picture())]}).status_code == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "tokenizer", "--template", "vicuna"), "are of a language model: leave out --only"),
        (("--only", "encoder", "--lcm-lora", "mini"), "are of drawing: give --only tokenizer"),
    ],
)
def test_options_of_what_is_not_served_are_refused(cli, options, said):
    code, _, error = cli("serve", *options)
    assert code == 2
    assert said in error
