"""Distillation of the mini diffusion model into a latent consistency model (LCM), which draws in few steps.

What it learnt is exported as an LCM-LoRA of the teacher too (Luo et al. 2023, arXiv 2311.05556), a twelfth of its size.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from seedtok.core.images import side_by_side, to_pil
from seedtok.data.batches import Batch
from seedtok.mini.stages.pipelines import pipeline_of, save_pipeline
from seedtok.stages.pixels import clip_normalize, unit_range
from seedtok.tokenizer.image_decoder import FEW_GUIDANCE, FEW_STEPS, ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.training.config import StageSettings
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage, freeze

TRAIN_STEPS = 1000  # of the teacher


class LcmSettings(StageSettings):
    teacher: NameOrFolder  # a diffusion model that predicts the clean latent or a velocity: "mini" or a folder
    tokenizer: NameOrFolder | None = None  # of it the student learns to draw codes too, for every other picture
    guidance_scale: float = 2.5  # of the teacher; the student learns to draw as if so guided
    solver_steps: int = 50  # of the teacher, from noise to a picture; a step of the student leads over one of them
    target_decay: float = 0.95  # of the moving average of the student that gives the targets (paper)
    huber: float = 0.001  # where the loss goes from squared to absolute
    rank: int = Field(default=16, ge=1)  # of the LoRA; without 50 solver steps, with which one is used, there is none

    def build(self) -> "LcmStage":
        tokenizer = None if self.tokenizer is None else SeedTokenizer.from_pretrained(self.tokenizer)
        return LcmStage(self, ImageDecoder.from_pretrained(self.teacher), tokenizer)


def clean_estimate(
    output: Float[Tensor, "b c h w"], noisy: Float[Tensor, "b c h w"], alpha: Float[Tensor, " b"], prediction: str
) -> Float[Tensor, "b c h w"]:
    """The clean latent that a network's output for `noisy` stands for; `alpha` is the cumulative product of alphas.

    `prediction` is diffusers' `prediction_type`: "sample", or "v_prediction", sqrt(a) z_t - sqrt(1 - a) v. Neither
    needs a division, and so both hold at a terminal SNR of zero too, where a is 0.
    """
    if prediction == "sample":
        return output
    alpha = alpha.view(-1, 1, 1, 1)
    return alpha.sqrt() * noisy - (1 - alpha).sqrt() * output


def consistency(
    clean: Float[Tensor, "b c h w"], noisy: Float[Tensor, "b c h w"], steps: Int[Tensor, " b"], scale: float
) -> Float[Tensor, "b c h w"]:
    """The consistency function (Luo et al. 2023, equation 9): c_skip z_t + c_out times the estimate of the clean z.

    c_skip is 0.25 / ((scale t)^2 + 0.25) and c_out is scale t / sqrt((scale t)^2 + 0.25), so that at step 0 it is z_t
    itself.

    Args:
        clean: the estimate, of the network.
        noisy: z_t.
        steps: t, from 0 on.
        scale: `LCMScheduler`'s `timestep_scaling`.
    """
    scaled = scale * steps.to(noisy.dtype).view(-1, 1, 1, 1)
    skip, out = 0.25 / (scaled.square() + 0.25), scaled / (scaled.square() + 0.25).sqrt()
    return skip * noisy + out * clean


def ddim_step(
    clean: Float[Tensor, "b c h w"], noisy: Float[Tensor, "b c h w"], alpha: Float[Tensor, " b"],
    before: Float[Tensor, " b"],
) -> Float[Tensor, "b c h w"]:  # fmt: skip
    """One step of DDIM by a clean estimate, from the cumulative product of alphas `alpha`, below 1, to `before`."""
    alpha, before = alpha.view(-1, 1, 1, 1), before.view(-1, 1, 1, 1)
    noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    return before.sqrt() * clean + (1 - before).sqrt() * noise


def pseudo_huber(a: Tensor, b: Tensor, c: float) -> Float[Tensor, ""]:
    """The mean of sqrt((a - b)^2 + c^2) - c (Song and Dhariwal 2023)."""
    return ((a - b).square() + c * c).sqrt().mean() - c


@torch.no_grad()
def low_rank(student: nn.Module, teacher: nn.Module, rank: int) -> dict[str, nn.Module | Tensor]:
    """The difference of two UNets as a LoRA in the names of diffusers: of each layer the nearest of this rank.

    Of a linear layer W_student - W_teacher (out, in) is about B A, with A (rank, in) and B (out, rank) by the largest
    singular values; a convolution's is taken as (out, in * k * k). Biases, norms, embeddings and the layers of classes
    of our own, which peft does not take, stay the teacher's.
    """
    tensors: dict[str, nn.Module | Tensor] = {}
    theirs: dict[str, Any] = dict(teacher.named_modules())
    for name, layer in student.named_modules():
        if type(layer) not in (nn.Linear, nn.Conv2d):
            continue
        change: Tensor = layer.weight.float() - theirs[name].weight.float()
        left, values, right = torch.linalg.svd(change.flatten(1), full_matrices=False)
        root = values[:rank].sqrt()
        down, up = root[:, None] * right[:rank], left[:, :rank] * root
        tensors[f"{name}.lora_A.weight"] = down.unflatten(1, change.shape[1:]).contiguous()
        tensors[f"{name}.lora_B.weight"] = up[(..., *[None] * (change.ndim - 2))].contiguous()
    return tensors


class LcmStage(Stage):
    """Consistency loss: the student's picture of a noisy latent, and the target's of one that is a teacher's step on.

    The step is one of DDIM with classifier-free guidance, so that guidance is in the student's weights. The target is a
    moving average of the student (Luo et al. 2023, algorithm 1; the guidance scale is fixed here, as the mini UNet has
    no input for it).
    """

    writes_parameters = "a target that follows the student"

    def __init__(self, settings: LcmSettings, teacher: ImageDecoder, tokenizer: SeedTokenizer | None = None) -> None:
        super().__init__()
        self.settings, self.decoder = settings, teacher
        self.tokenizer = None if tokenizer is None else freeze(tokenizer)
        pipeline: Any = teacher.pipeline
        self.text_encoder, self.autoencoder = freeze(pipeline.text_encoder), freeze(pipeline.vae)
        self.teacher = freeze(pipeline.unet.to(memory_format=torch.channels_last))
        self.unet: UNet2DConditionModel = copy.deepcopy(self.teacher).train().requires_grad_(True)
        self.target: UNet2DConditionModel = copy.deepcopy(self.teacher)
        del self.unet.seedtok_frozen, self.target.seedtok_frozen  # trained, and kept in checkpoints
        self.scheduler: Any = LCMScheduler.from_config(
            pipeline.scheduler.config, original_inference_steps=settings.solver_steps
        )
        self.alphas: Tensor  # cumulative products by step
        self.register_buffer("alphas", self.scheduler.alphas_cumprod.clone(), persistent=False)

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Casts frozen modules to `dtype`, and with them the whole pipeline, whose UNet is the teacher."""
        super().cast_frozen(dtype)
        self.decoder.to(dtype=dtype)

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the target towards the student."""
        student = [parameter.detach() for parameter in self.unet.parameters()]
        torch._foreach_lerp_(list(self.target.parameters()), student, 1 - self.settings.target_decay)

    def forward(self, batch: Batch) -> Losses:
        if self.training:
            self.follow()
        jump = TRAIN_STEPS // self.settings.solver_steps
        with torch.no_grad():
            features = self._conditions(batch)
            latents = self.autoencoder.encode(unit_range(batch.pixels).to(self.autoencoder.dtype)).latents.float()
            noise = torch.randn_like(latents)
            steps = torch.randint(1, self.settings.solver_steps + 1, (len(latents),)).to(latents.device) * jump - 1
            noisy: Tensor = self.scheduler.add_noise(latents, noise, steps)  # type: ignore[arg-type]
            after = (steps - jump).clamp(min=0)  # the first step leads to the clean latent, where all is skipped
            alpha_after = torch.where(steps < jump, torch.ones_like(self.alphas[after]), self.alphas[after])
            closer = ddim_step(self._guided(noisy, steps, features), noisy, self.alphas[steps], alpha_after)
            goal = self._picture(self.target, closer, after, features)
        return {"loss": pseudo_huber(self._picture(self.unet, noisy, steps, features), goal, self.settings.huber)}

    def _conditions(self, batch: Batch) -> Float[Tensor, "b n c"]:
        """Text features of the captions and, for every other picture, what a tokenizer makes of its codes."""
        features = self.decoder.text_features(batch.captions)
        if self.tokenizer is not None:
            embeddings = self.tokenizer.causal_embeddings(clip_normalize(batch.pixels[::2]))
            vectors = self.tokenizer.quantize(embeddings).vectors.to(self.tokenizer.dtype)
            features[::2] = self.tokenizer.generation_embeddings(vectors).to(features.dtype)
        return features

    def _guided(self, noisy: Tensor, steps: Tensor, features: Tensor) -> Tensor:
        """The teacher's clean estimate, guided away from that of the empty caption."""
        nothing = self.decoder.text_features([""]).expand_as(features)
        both = (
            torch.cat([noisy, noisy]).to(self.teacher.dtype),
            torch.cat([steps, steps]),
            torch.cat([nothing, features]),
        )
        without, given = self.teacher(*both).sample.float().chunk(2)
        guided = without + self.settings.guidance_scale * (given - without)
        return self._clean(guided, noisy, steps)

    def _clean(self, output: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        return clean_estimate(output, noisy, self.alphas[steps], self.scheduler.config["prediction_type"])

    def _picture(self, unet: UNet2DConditionModel, noisy: Tensor, steps: Tensor, features: Tensor) -> Tensor:
        output = unet(noisy, steps, features.to(unet.dtype)).sample.float()
        clean = self._clean(output, noisy, steps)
        return consistency(clean, noisy, steps, self.scheduler.config["timestep_scaling"])

    def pipeline(self) -> StableDiffusionPipeline:
        own: Any = self.decoder.pipeline
        return pipeline_of(own.vae, own.text_encoder, own.tokenizer, self.unet, self.scheduler)

    def draw(self, batch: Batch) -> Image.Image:
        count = min(16, len(batch.captions))
        pictures: Any = self.pipeline()(
            batch.captions[:count], num_inference_steps=FEW_STEPS, guidance_scale=FEW_GUIDANCE,
            generator=torch.Generator().manual_seed(0),
        ).images  # type: ignore[union-attr]  # fmt: skip
        return side_by_side(to_pil(unit_range(batch.pixels[:count])), pictures)

    def export(self, folder: Path) -> None:
        """Writes the pipeline, and in its sub-folder lcm_lora what makes the teacher nearly that."""
        usual = self.settings.solver_steps == LCMScheduler().config["original_inference_steps"]
        lora = low_rank(self.unet, self.teacher, self.settings.rank) if usual else None
        save_pipeline(self.pipeline(), folder, lora)
