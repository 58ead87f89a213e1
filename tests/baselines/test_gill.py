"""GILL in small: image tokens after a caption, the mapper, what learns, files."""

import pytest
import torch

from seedtok.baselines.gill import Gill, GillConfig
from seedtok.core.errors import CheckpointError
from seedtok.data.batches import Batch
from seedtok.stages.gill import GillSettings
from seedtok.tokenizer.image_decoder import ImageDecoder

CAPTIONS = ["a fox", "a fox on a red background", "a cat in the middle"]


@pytest.fixture(scope="module")
def model(bases) -> Gill:
    torch.manual_seed(0)
    return Gill.build(bases["opt"], GillConfig(tokens=3, width=16, layers=1, heads=2, queries=7, output_width=10))


def test_features_are_what_the_mapper_makes_of_the_states_at_the_image_tokens(model):
    lm, words = model.lm, model.text_tokenizer
    made = model.text_features(CAPTIONS)
    assert made.shape == (3, 7, 10)
    for caption, features in zip(CAPTIONS, made, strict=True):
        ids = torch.tensor([[words.bos_token_id, *words(caption, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            inputs = torch.cat([lm.get_input_embeddings()(ids), model.image_tokens[None]], dim=1)
            states = lm(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1][:, -3:]
            torch.testing.assert_close(model.mapper(states)[0], features, rtol=1e-4, atol=1e-4)


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path / "gill")
    again = Gill.from_pretrained(tmp_path / "gill")
    assert torch.equal(again.text_features(CAPTIONS), model.text_features(CAPTIONS))
    (tmp_path / "gill" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a GILL baseline"):
        Gill.from_pretrained(tmp_path / "gill")


def test_image_tokens_and_mapper_alone_learn_the_text_encoders_features(bases, tiny_diffusion):
    torch.manual_seed(0)
    settings = GillSettings(
        base=bases["opt"], image_decoder=tiny_diffusion, width=16, layers=1, heads=2, mean_feature_bias=True
    )
    stage = settings.build()
    batch = Batch(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), CAPTIONS, CAPTIONS)
    stage.initialize([batch])
    target = ImageDecoder.from_pretrained(tiny_diffusion).text_features(CAPTIONS)
    torch.testing.assert_close(stage.model.mapper.output.bias.detach(), target.mean((0, 1)))
    expected = (stage.model.text_features(CAPTIONS) - target).square().mean()
    loss = stage(batch)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    loss.backward()
    moved = {name.removeprefix("model.").split(".")[0] for name, p in stage.named_parameters() if p.grad is not None}
    assert moved == {"image_tokens", "mapper"}
