"""Latent consistency distillation, against the schedulers of diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline
from torch import nn

from seedtok.mini.stages.lcm import LcmSettings, LcmStage, clean_estimate, consistency, ddim_step, low_rank
from seedtok.mini.stages.pipelines import LORA_FOLDER
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


def test_the_lora_is_the_nearest_of_its_rank(stage):
    torch.manual_seed(0)
    for parameter in stage.unet.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    student, teacher = dict(stage.unet.named_modules()), dict(stage.teacher.named_modules())
    for rank in (3, 1000):
        tensors = low_rank(stage.unet, stage.teacher, rank)
        names = {name.rpartition(".lora_")[0] for name in tensors}
        assert "mid_block.attentions.0.proj_in" in names
        assert "mid_block.resnets.0.conv1" in names
        for name in names:
            change = (student[name].weight - teacher[name].weight).detach()
            down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
            assert down.shape[1:] == change.shape[1:]
            assert len(down) == min(rank, *change.flatten(1).shape)
            left = change.flatten(1) - up.flatten(1) @ down.flatten(1)
            tail = torch.linalg.svdvals(change.flatten(1))[rank:].square().sum().sqrt()
            torch.testing.assert_close(left.norm(), tail, atol=1e-5, rtol=1e-4)


def test_with_the_lora_the_teacher_has_the_weights_of_the_student(stage, tmp_path):
    torch.manual_seed(0)
    stage.decoder.pipeline.save_pretrained(tmp_path / "teacher")
    weights = [layer.weight for layer in stage.unet.modules() if type(layer) in (nn.Linear, nn.Conv2d)]
    for weight in weights:
        weight.data += 0.01 * torch.randn_like(weight)
    stage.settings = stage.settings.model_copy(update={"rank": 1000, "solver_steps": 50})
    stage.eval().export(tmp_path / "lcm")
    student, teacher = (ImageDecoder.from_pretrained(folder) for folder in (tmp_path / "lcm", tmp_path / "teacher"))
    teacher.add_lcm_lora(tmp_path / "lcm" / LORA_FOLDER)
    expected, found = student.pipeline.unet.state_dict(), teacher.pipeline.unet.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    assert teacher.few_steps == student.few_steps == 4


def test_it_is_exported_as_a_pipeline_that_draws_in_few_steps(stage, tmp_path):
    stage.eval().export(tmp_path / "lcm")
    assert not (tmp_path / "lcm" / LORA_FOLDER).exists()  # by a LoRA it would be drawn as by 50 steps, not 10
    decoder = ImageDecoder.from_pretrained(tmp_path / "lcm")
    assert decoder.few_steps == 4
    assert decoder.pipeline.scheduler.config["rescale_betas_zero_snr"]
    (drawn,) = decoder.draw(decoder.text_features(["a cat"]), 4, 1.0, torch.Generator().manual_seed(0))
    assert drawn.size == (stage.autoencoder.config.image_size,) * 2
