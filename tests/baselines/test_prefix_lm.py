"""A language model that reads images as vectors: its loss, its texts, its files."""

import json

import pytest
import torch

from seedtok.baselines.prefix_lm import PrefixLM
from seedtok.core.errors import CheckpointError
from seedtok.lm.prompts import CAPTION, TextSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(bases, seed, tmp_path_factory) -> PrefixLM:
    folder = tmp_path_factory.mktemp("qformer") / "qformer"
    seed.embedder.save_pretrained(folder)
    torch.manual_seed(2)
    return PrefixLM.on_qformer(bases["opt"], folder)


@pytest.fixture(scope="module")
def pixels(seed) -> torch.Tensor:
    return seed.pixels(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8))


def test_the_loss_is_that_of_the_targets_one_by_one(model, pixels):
    ids, targets = model.rows([CAPTION, CAPTION], ["a fox", "a fox on a red background"])
    with torch.no_grad():
        loss = model.loss(pixels, ids, targets)
        every = []
        for image, row, wanted in zip(pixels, ids, targets, strict=True):
            text = model.lm.get_input_embeddings()(row)
            embeddings = torch.cat([model.prefix(image[None])[0], text])[None]
            log_probs = model.lm(inputs_embeds=embeddings).logits[0].log_softmax(-1)
            every += [-log_probs[31 + i, token] for i, token in enumerate(row) if wanted[i]]
    torch.testing.assert_close(loss, torch.stack(every).mean(), rtol=1e-4, atol=1e-4)


def test_between_image_and_prompt_is_what_begins_every_text(model):
    ids, targets = model.rows([CAPTION], ["a fox"])
    prompt = model.text_tokenizer(CAPTION, add_special_tokens=False).input_ids
    assert ids[0, : 1 + len(prompt)].tolist() == [model.text_tokenizer.bos_token_id, *prompt]
    assert not targets[0, : 1 + len(prompt)].any()


def test_a_batch_gives_the_texts_of_each_image_alone(model, pixels):
    prompts, settings = ["Question: a? Short answer.", "a photo of a fox on"], TextSettings(max_new_tokens=5)
    together = model.complete(pixels, prompts, settings)
    alone = [model.complete(p[None], [t], settings)[0] for p, t in zip(pixels, prompts, strict=True)]
    assert together == alone


def test_saved_and_loaded_it_is_the_same(model, pixels, tmp_path):
    model.save_pretrained(tmp_path / "blip2")
    again = PrefixLM.from_pretrained(tmp_path / "blip2")
    with torch.no_grad():
        assert torch.equal(again.prefix(pixels), model.prefix(pixels))
    assert again.starts
    config = json.loads((tmp_path / "blip2" / "config.json").read_text())
    del config["start_id"]  # as versions wrote it that trained without it
    (tmp_path / "blip2" / "config.json").write_text(json.dumps(config))
    ids, _ = PrefixLM.from_pretrained(tmp_path / "blip2").rows([CAPTION], ["a fox"])
    assert model.text_tokenizer.bos_token_id not in ids
    (tmp_path / "blip2" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a baseline that reads images as vectors"):
        PrefixLM.from_pretrained(tmp_path / "blip2")
