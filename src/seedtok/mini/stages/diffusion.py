"""The mini latent diffusion model: a `StableDiffusionPipeline` conditioned on the mini CLIP's text tower."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from seedtok.core.errors import ConfigError
from seedtok.core.files import load_strictly, read_json
from seedtok.core.hub import resolve
from seedtok.core.images import side_by_side, to_pil
from seedtok.data.batches import Batch
from seedtok.mini.judge import places_of
from seedtok.mini.naming import Naming, batch_labels
from seedtok.mini.networks.patch_autoencoder import PatchAutoencoder
from seedtok.mini.networks.positioned_unet import PositionedUNet
from seedtok.mini.stages.pipelines import pipeline_of, save_pipeline
from seedtok.mini.world.scenes import GRID
from seedtok.mini.world.source import scenes_of
from seedtok.stages.pixels import unit_range
from seedtok.tokenizer.image_decoder import plain_attention
from seedtok.training.config import StageSettings
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage, freeze

MOST_WEIGHT = 20.0  # of the error of a latent with little noise; that of noise alone weighs 1


class DiffusionSettings(StageSettings):
    # that the text encoder and its tokenizer are of: a CLIPTextModel, CLIPModel or diffusion model; "mini" or a folder
    clip: NameOrFolder
    autoencoder: NameOrFolder  # a PatchAutoencoder: "mini" or a folder
    start: Path | None = None  # a PositionedUNet to go on from; None: from nothing
    widths: tuple[int, ...] = (256,)
    transformer_layers: int = 1
    head_width: int = 64
    caption_dropout: float = 0.1  # for classifier-free guidance
    naming: float = 0.0  # weight of the loss that has the UNet's middle name what stands where in a scene; 0: none
    timestep_shift: float = 1.0  # of the steps trained on, to the noisy ones, where the caption decides; 1: uniform
    sample_steps: int = 10
    guidance_scale: float = 2.5

    def for_counting(self) -> "DiffusionSettings":
        return self.model_copy(update={"caption_dropout": 0.0})

    def build(self) -> "DiffusionStage":
        return DiffusionStage(self)


def _text_encoder(folder: Path) -> CLIPTextModel:
    if read_json(folder / "config.json").get("model_type") == "clip_text_model":
        return CLIPTextModel.from_pretrained(folder, dtype=torch.float32)
    return CLIPModel.from_pretrained(folder, dtype=torch.float32).text_model


class DiffusionStage(Stage):
    """Prediction of frozen latents from noisy ones and frozen text features; the caption is dropped now and then.

    The UNet predicts the clean latents: a patch has 48 channels, most of them fine detail, and to pass on their noise,
    as a velocity asks for, was the slowest part to learn. Errors are weighted as a velocity's, by one over the variance
    of the noise (Salimans and Ho 2022, section 4), up to `MOST_WEIGHT`.

    What a caption puts where is little of that loss and learnt late; `naming` asks for it plainly.
    """

    def __init__(self, settings: DiffusionSettings) -> None:
        super().__init__()
        self.settings = settings
        clip, autoencoder = resolve(settings.clip, "diffusion"), resolve(settings.autoencoder, "diffusion/vae")
        whole = (clip / "model_index.json").is_file()
        self.tokenizer = CLIPTokenizer.from_pretrained(clip / "tokenizer" if whole else clip)
        self.text_encoder = freeze(_text_encoder(clip / "text_encoder" if whole else clip))
        self.autoencoder = freeze(PatchAutoencoder.from_pretrained(autoencoder))
        config: Any = self.autoencoder.config
        depth = len(settings.widths)
        self.unet = PositionedUNet(
            sample_size=config.image_size // config.patch_size,
            in_channels=config.latent_channels,
            out_channels=config.latent_channels,
            block_out_channels=settings.widths,
            down_block_types=("DownBlock2D",) * (depth - 1) + ("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
            layers_per_block=1,
            transformer_layers_per_block=settings.transformer_layers,
            attention_head_dim=settings.widths[-1] // settings.head_width,  # diffusers' name for the number of heads
            cross_attention_dim=self.text_encoder.config.hidden_size,
            use_linear_projection=True,
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.start is not None:
            before = PositionedUNet.from_pretrained(settings.start, torch_dtype=torch.float32)
            load_strictly(self.unet, before.state_dict(), str(settings.start))
        plain_attention(self.unet)
        if settings.naming:
            if config.image_size // config.patch_size >> depth - 1 != GRID:
                raise ConfigError(
                    f"things are named on {GRID} x {GRID} cells, as the UNet's middle has not: set stage.naming=0"
                )
            self.naming = Naming(settings.widths[-1])
        self.scheduler = DDIMScheduler(
            num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
            prediction_type="sample", rescale_betas_zero_snr=True, timestep_spacing="trailing",
            clip_sample=False, set_alpha_to_one=True, steps_offset=1,
        )  # fmt: skip

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if self.settings.naming and scenes_of(batch) is None:
            raise ConfigError("what stands where is named in scenes, not in other images: set stage.naming=0")

    def text_features(self, captions: list[str]) -> Tensor:
        """What `StableDiffusionPipeline` conditions on: (B, 77, width)."""
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return self.text_encoder(tokens.input_ids.to(self.unet.device)).last_hidden_state

    def random_steps(self, count: int) -> Tensor:
        """(count,) int64 in 0..999: uniform u, moved by u -> s u / (1 + (s - 1) u) (Esser et al. 2024, equation 23)."""
        u, shift = torch.rand(count), self.settings.timestep_shift
        return (1000 * shift * u / (1 + (shift - 1) * u)).long().clamp(max=999)

    def _some_dropped(self, captions: list[str]) -> list[str]:
        """Captions, of which a share, drawn by chance, is empty."""
        if not self.settings.caption_dropout:
            return captions
        drop = torch.rand(len(captions)) < self.settings.caption_dropout
        return ["" if dropped else caption for caption, dropped in zip(captions, drop, strict=True)]

    def forward(self, batch: Batch) -> Losses:
        with torch.no_grad():
            features = self.text_features(self._some_dropped(batch.captions))
            latents = self.autoencoder.encode(unit_range(batch.pixels)).latents.float()
        noise = torch.randn_like(latents)
        steps = self.random_steps(len(latents)).to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, steps)  # type: ignore[arg-type]
        predicted, middle = self.predict(noisy, steps, features.float())
        noise_variance = 1 - self.scheduler.alphas_cumprod.to(steps.device)[steps]
        weight = (1 / noise_variance).clamp(max=MOST_WEIGHT)
        error = weight * F.mse_loss(predicted, latents, reduction="none").mean((1, 2, 3))
        noisiest = (steps >= 700).float()
        high_noise = (error * noisiest).sum() / noisiest.sum().clamp(min=1)
        losses = {"loss": error.mean(), "high_noise": torch.where(noisiest.any(), high_noise, error.mean())}
        if self.settings.naming:
            cells = middle.flatten(2).transpose(1, 2)
            losses["naming"] = self.naming(places_of(cells), cells.mean(1), batch_labels(batch, cells.device))
            losses["loss"] = losses["loss"] + self.settings.naming * losses["naming"]
        return losses

    def predict(self, noisy: Tensor, steps: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The clean latents that the UNet predicts, float32, and what it has in its middle: (B, width, H, W)."""
        middle: list[Tensor] = []
        watching = self.unet.mid_block.register_forward_hook(lambda *call: middle.append(call[-1]))
        try:
            return self.unet(noisy, steps, features).sample.float(), middle[0]
        finally:
            watching.remove()

    def pipeline(self) -> StableDiffusionPipeline:
        return pipeline_of(self.autoencoder, self.text_encoder, self.tokenizer, self.unet, self.scheduler)

    def draw(self, batch: Batch) -> Image.Image:
        count = min(16, len(batch.captions))
        pictures: Any = self.pipeline()(
            batch.captions[:count],
            num_inference_steps=self.settings.sample_steps,
            guidance_scale=self.settings.guidance_scale,
            generator=torch.Generator().manual_seed(0),
        ).images  # type: ignore[union-attr]
        return side_by_side(to_pil(unit_range(batch.pixels[:count])), pictures)

    def export(self, folder: Path) -> None:
        save_pipeline(self.pipeline(), folder)
