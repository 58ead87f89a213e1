"""Table 2: pictures drawn from captions by the diffusion model, and by SEED from the codes of the picture itself."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seedtok.core.hub import shipped
from seedtok.core.notices import quietly
from seedtok.evaluation.common import DEFAULT, Compute, evaluated_batches
from seedtok.evaluation.metrics import cosine_similarity_x100
from seedtok.mini.judge import SceneJudge, Verdict
from seedtok.mini.world.scenes import Scene
from seedtok.tokenizer.seed import SeedTokenizer


def unit_pixels(images: list[Image.Image]) -> Tensor:
    """Pictures as uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.stack([np.asarray(i.convert("RGB")) for i in images])).permute(0, 3, 1, 2)


class Drawings:
    """Pictures of several ways of drawing the same scenes, as the scene judge and the evaluation's CLIP see them.

    The CLIP is not the one inside the tokenizer. Both compute in float32, where the tokenizer is; `dtype` is what the
    image decoder draws in, as for `ImageDecoder.draw`.
    """

    def __init__(self, tokenizer: SeedTokenizer, ways: Sequence[str], dtype: torch.dtype | None = None) -> None:
        from transformers import CLIPModel

        self.tokenizer, self.dtype = tokenizer, dtype
        self.judge = SceneJudge.from_pretrained(shipped("judge")).to(tokenizer.device)
        with quietly("transformers"):
            clip = CLIPModel.from_pretrained(shipped("eval_clip"), dtype=torch.float32)
        self.clip = clip.eval().to(tokenizer.device)  # type: ignore[arg-type]
        self.verdicts = {way: Verdict(0, 0, 0, 0) for way in ways}
        self._embedded: dict[str, list[Tensor]] = {way: [] for way in ways}

    def add(self, way: str, images: Tensor, scenes: list[Scene]) -> None:
        """Takes uint8 pictures (B, 3, H, W) of these scenes; the true ones are of the way "real"."""
        self.verdicts[way] += self.judge.verdict(images.to(self.tokenizer.device).float() / 127.5 - 1, scenes)
        states = self.clip.vision_model(self.tokenizer.pixels(images).float()).pooler_output
        self._embedded[way].append(self.clip.visual_projection(states).cpu())

    def draw(self, way: str, conditions: Tensor, scenes: list[Scene], noise: int) -> None:
        """Draws from text features or generation embeddings (B, 77, width), and takes what comes out."""
        config, generator = self.tokenizer.config, torch.Generator().manual_seed(noise)
        drawn = self.tokenizer.image_decoder.draw(
            conditions, config.num_inference_steps, config.guidance_scale, generator, self.dtype
        )
        self.add(way, unit_pixels(drawn), scenes)

    def similarity(self, way: str) -> float:
        """Mean cosine to the true pictures, x100."""
        return cosine_similarity_x100(torch.cat(self._embedded[way]), torch.cat(self._embedded["real"]))


@torch.no_grad()
def evaluate_generation(
    model: str = "mini", count: int = 1000, seed: int = 0, batch_size: int = 32, compute: Compute = DEFAULT
) -> dict[str, Any]:
    """CLIP similarity (x100) to the true picture, and the share of things and backgrounds the scene judge finds.

    "caption" is the diffusion model drawing from the caption, "seed" the tokenizer's reconstruction; both draw from
    the same noise. `judge_on_real` is the judge on the true pictures.
    """
    began = time.perf_counter()
    tokenizer = SeedTokenizer.from_pretrained(model, dtype=compute.dtype, device=compute.device)
    ways = ("caption", "seed")
    drawings = Drawings(tokenizer, (*ways, "real"), compute.drawing_dtype)
    for number, batch in enumerate(evaluated_batches("generation", count, seed, batch_size)):
        features = tokenizer.image_decoder.text_features(batch.captions)
        codes = tokenizer.encode_pixels(tokenizer.pixels(batch.pixels))
        reconstructed = tokenizer.generation_embeddings(tokenizer.lookup(codes))
        drawings.add("real", batch.pixels, batch.scenes or [])
        for name, conditions in zip(ways, (features, reconstructed), strict=True):
            drawings.draw(name, conditions, batch.scenes or [], noise=seed * 100_003 + number)
    verdicts = drawings.verdicts
    return {
        "clip_similarity": {name: drawings.similarity(name) for name in ways},
        "things_right": {name: verdicts[name].thing_share for name in ways},
        "background_right": {name: verdicts[name].background_share for name in ways},
        "judge_on_real": {
            "things": verdicts["real"].thing_share,
            "background": verdicts["real"].background_share,
        },
        "model": model,
        "count": count,
        "seed": seed,
        "seconds": time.perf_counter() - began,
    }
