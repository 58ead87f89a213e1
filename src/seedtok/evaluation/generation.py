"""Table 2: pictures drawn from captions by the diffusion model, and by SEED from the codes of the picture itself."""

import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from seedtok.evaluation.common import evaluated_batches
from seedtok.evaluation.judge import SceneJudge, Verdict
from seedtok.evaluation.metrics import cosine_similarity_x100
from seedtok.tokenizer.seed import SeedTokenizer, shipped


def _pixels(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(i.convert("RGB")) for i in images])).permute(0, 3, 1, 2)


@torch.no_grad()
def evaluate_generation(model: str = "mini", count: int = 1000, seed: int = 0, batch_size: int = 32) -> dict[str, Any]:
    """CLIP similarity (x100) to the true picture, and the share of things and backgrounds the scene judge finds.

    "caption" is the diffusion model drawing from the caption, "seed" the tokenizer's reconstruction; both draw from
    the same noise. The CLIP is not the one inside the tokenizer. `judge_on_real` is the judge on the true pictures.
    """
    began = time.perf_counter()
    tokenizer = SeedTokenizer.from_pretrained(model)
    judge = SceneJudge.from_pretrained(shipped("judge"))
    clip = CLIPModel.from_pretrained(shipped("eval_clip"), dtype=torch.float32).eval()

    def embed(images: Tensor) -> Tensor:
        return F.normalize(clip.visual_projection(clip.vision_model(tokenizer.pixels(images)).pooler_output), dim=-1)

    verdicts = {name: Verdict(0, 0, 0, 0) for name in ("caption", "seed", "real")}
    embedded: dict[str, list[Tensor]] = {name: [] for name in verdicts}
    config = tokenizer.config
    for number, batch in enumerate(evaluated_batches("generation", count, seed, batch_size)):
        features = tokenizer.image_decoder.text_features(batch.captions)
        codes = tokenizer.encode(batch.pixels)
        reconstructed = tokenizer.generation_embeddings(tokenizer.lookup(codes))
        pictures = {"real": batch.pixels}
        for name, conditions in (("caption", features), ("seed", reconstructed)):
            generator = torch.Generator().manual_seed(seed * 100_003 + number)
            drawn = tokenizer.image_decoder.draw(
                conditions, config.num_inference_steps, config.guidance_scale, generator
            )
            pictures[name] = _pixels(drawn)
        for name, images in pictures.items():
            verdicts[name] += judge.verdict(images.float() / 127.5 - 1, batch.scenes or [])
            embedded[name].append(embed(images))
    real = torch.cat(embedded["real"])
    ways = ("caption", "seed")
    return {
        "clip_similarity": {name: cosine_similarity_x100(torch.cat(embedded[name]), real) for name in ways},
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
