"""Pictures drawn anew, with a network that knows the answer in the diffusion model's place."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from seedtok.mini.stages.judge import JudgeSettings
from seedtok.mini.stages.redrawing import STEPS, Redrawing
from seedtok.mini.world.scenes import unique_scenes
from seedtok.mini.world.source import to_batch
from seedtok.stages.pixels import unit_range
from seedtok.tokenizer.image_decoder import ImageDecoder


@pytest.fixture
def redrawing(tiny_diffusion) -> Redrawing:
    return Redrawing(ImageDecoder.from_pretrained(tiny_diffusion))


class Knowing(nn.Module):
    """A UNet that gives the clean latent, and notes what it was asked."""

    def __init__(self, latent: torch.Tensor):
        super().__init__()
        self.latent, self.asked, self.dtype = latent, [], torch.float32

    def forward(self, noisy, steps, features):
        self.asked.append((noisy, steps, features.shape))
        return SimpleNamespace(sample=self.latent)


def test_a_network_that_knows_draws_what_the_autoencoder_keeps(redrawing):
    side = redrawing.vae.config["image_size"]
    images = torch.rand(5, 3, side, side) * 2 - 1
    latent = redrawing.vae.encode(images).latents
    knowing = Knowing(latent)
    redrawing.unet, redrawing.prediction = knowing, "sample"
    drawn = redrawing(images, ["a cat"] * 5)
    torch.testing.assert_close(drawn, redrawing.vae.decode(latent).sample.clamp(-1, 1))
    (noisy, start, shape), (later, half, _) = knowing.asked
    assert all(STEPS[0] <= step < STEPS[1] for step in start.tolist())
    assert half.tolist() == (start // 2).tolist()
    assert shape[:2] == (5, 77)
    # both noisy latents hold one and the same noise, as much as their steps say
    noises = [
        (x - redrawing.alphas[t].sqrt().view(-1, 1, 1, 1) * latent) / (1 - redrawing.alphas[t]).sqrt().view(-1, 1, 1, 1)
        for x, t in ((noisy, start), (later, half))
    ]
    torch.testing.assert_close(noises[0], noises[1], rtol=1e-3, atol=1e-3)
    assert 0.5 < noises[0].std() < 1.5


def test_the_judge_sees_a_share_drawn_anew():
    stage = JudgeSettings(drawn=0.25).build()
    stage.redrawing = lambda images, captions: images + len(captions)
    batch = to_batch(unique_scenes("train", 8), 128)
    images = unit_range(batch.pixels)
    changed = (stage.drawings(images, batch.captions) - images).mean((1, 2, 3))
    assert changed.round().tolist() == [2.0] * 2 + [0.0] * 6
