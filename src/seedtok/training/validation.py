"""Validation: numbers and a picture of held-out batches."""

import torch
from PIL import Image

from seedtok.training.distributed import reshard
from seedtok.training.run import Run
from seedtok.training.schedule import noise_seed


def validate(run: Run) -> tuple[dict[str, float], Image.Image | None]:
    """The stage's numbers on all ranks' held-out batches, and on the main rank the picture that it draws, if any.

    Called on every rank. Its noise is the same each time.
    """
    stage, device = run.stage, run.accelerator.device
    batches = [batch.to(device) for batch in run.held_out]
    stage.eval()
    torch.manual_seed(noise_seed(run.config.seed, run.rank))
    with run.averaged(), torch.no_grad(), run.accelerator.autocast():
        numbers = stage.validate(batches)
        draws = run.is_main or run.sharded  # to draw from sharded parameters takes all ranks
        picture = stage.draw(batches[0]) if draws else None
    reshard(stage)
    stage.train()
    return numbers, picture
