"""Latent consistency distillation, against the schedulers of diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline

from seedtok.mini.stages.lcm import LcmSettings, LcmStage, clean_estimate, consistency, ddim_step
from seedtok.mini.world.scenes import unique_scenes
from seedtok.mini.world.source import to_batch
from seedtok.tokenizer.image_decoder import ImageDecoder

SCHEDULE = {
    "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True, "set_alpha_to_one": True,
}  # fmt: skip
BOTH = pytest.mark.parametrize("prediction", ["sample", "v_prediction"])


@BOTH
def test_the_consistency_function_is_that_of_the_lcm_scheduler(prediction):
    scheduler = LCMScheduler(**SCHEDULE, prediction_type=prediction)
    alphas = scheduler.alphas_cumprod
    assert float(alphas[-1]) < 1e-12  # a terminal SNR of zero
    noisy, output = torch.randn(2, 1, 3, 4, 4)
    for step in (999, 519, 19):
        scheduler.set_timesteps(timesteps=[step])
        expected = scheduler.step(output, torch.tensor(step), noisy).denoised
        clean = clean_estimate(output, noisy, alphas[[step]], prediction)
        found = consistency(clean, noisy, torch.tensor([step]), 10.0)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.isfinite(found).all()
    torch.testing.assert_close(consistency(output, noisy, torch.tensor([0]), 10.0), noisy)


@BOTH
def test_the_solver_is_ddim(prediction):
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=prediction, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(999, 0, -20))
    noisy, output = torch.randn(2, 1, 3, 4, 4)
    alphas = scheduler.alphas_cumprod
    for step in (999, 519, 19):
        before = alphas[step - 20] if step > 20 else torch.tensor(1.0)
        expected = scheduler.step(output, step, noisy).prev_sample
        clean = clean_estimate(output, noisy, alphas[[step]], prediction)
        found = ddim_step(clean, noisy, alphas[[step]], before[None])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def stage(tiny_diffusion, tmp_path) -> LcmStage:
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_diffusion, safety_checker=None)
    pipeline.scheduler = DDIMScheduler(**SCHEDULE, prediction_type="sample", clip_sample=False)
    for weights in pipeline.unet.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.1)  # so that what it predicts depends on its input
    return LcmStage(LcmSettings(teacher=tiny_diffusion, solver_steps=10), ImageDecoder(pipeline)).train()


def test_the_loss_falls_and_the_target_follows(stage, tiny_diffusion):
    size = stage.autoencoder.config.image_size
    batch = to_batch(unique_scenes("test", 4), size)
    optimizer = torch.optim.AdamW(stage.unet.parameters(), lr=1e-3)
    teacher = {name: tensor.clone() for name, tensor in stage.teacher.state_dict().items()}
    losses = []
    for _ in range(40):
        torch.manual_seed(0)
        loss = stage(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(stage.teacher.state_dict()[name], tensor) for name, tensor in teacher.items())
    student, target = stage.unet.state_dict(), stage.target.state_dict()
    moved = [name for name in teacher if not torch.equal(target[name], teacher[name])]
    assert moved
    for name in moved:  # between where it began and where the student is
        assert (target[name] - teacher[name]).norm() < (student[name] - teacher[name]).norm() * 2
    before = {name: tensor.clone() for name, tensor in target.items()}
    stage.eval()(batch)
    assert all(torch.equal(stage.target.state_dict()[name], tensor) for name, tensor in before.items())


def test_it_is_exported_as_a_pipeline_that_draws_in_few_steps(stage, tmp_path):
    stage.eval().export(tmp_path / "lcm")
    decoder = ImageDecoder.from_pretrained(tmp_path / "lcm")
    assert decoder.few_steps == 4
    assert decoder.pipeline.scheduler.config["rescale_betas_zero_snr"]
    (drawn,) = decoder.draw(decoder.text_features(["a cat"]), 4, 1.0, torch.Generator().manual_seed(0))
    assert drawn.size == (stage.autoencoder.config.image_size,) * 2
