"""One optimizer step of any stage."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from seedtok.core.errors import TrainingError
from seedtok.data.batches import Batch
from seedtok.training.distributed import gather_full
from seedtok.training.run import Run
from seedtok.training.schedule import learning_rate, noise_seed
from seedtok.training.stage import Losses
from seedtok.training.token_mean import TokenMean


def take_step(run: Run, data: Iterator[Batch], step: int) -> Losses:
    """Trains on the next micro-batches; returns the mean of each loss over them, on this rank.

    Nothing random carries over from one step to the next: the noise and dropout of a micro-batch are a function of
    (seed, step, micro-batch, rank). Raises TrainingError, with the weights as they were, when the loss or a gradient is
    not finite; a gradient of fp16 that is not leaves the step out.
    """
    optimization, accelerator = run.config.optimization, run.accelerator
    means: dict[str, Tensor] = {}
    tokens = TokenMean()
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(optimization, step)
    for micro in range(optimization.accumulate):
        batch = next(data).to(accelerator.device)
        torch.manual_seed(noise_seed(run.config.seed, step, micro, run.rank))
        with accelerator.accumulate(run.model):
            with accelerator.autocast():
                losses = dict(run.model(batch))
            losses["loss"] = losses["loss"] * tokens.weight(losses.pop("count", None))
            _check_finite(losses["loss"], run, step)
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients:
                tokens.correct(run.stage.parameters())
                norm = None
                if optimization.max_grad_norm:
                    norm = accelerator.clip_grad_norm_(run.stage.parameters(), optimization.max_grad_norm)
                elif accelerator.scaler is None:  # the largest value: a sum of squares could be infinite by itself
                    gradients = [p.grad for p in run.stage.parameters() if p.grad is not None]
                    norm = torch.nn.utils.get_total_norm(gradients, math.inf)
                if accelerator.scaler is None and norm is not None:  # fp16's scaler leaves such steps out
                    _check_finite(gather_full({"": norm})[""], run, step, "gradient")
            run.optimizer.step()
            run.optimizer.zero_grad()
        for name, value in losses.items():
            means[name] = means.get(name, torch.zeros(())) + value.detach().cpu() / optimization.accumulate
    means["loss"] *= tokens.correction
    if run.ema:
        run.ema.update(step)
    return means


def _check_finite(value: Tensor, run: Run, step: int, what: str = "loss") -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"the {what} is {value.item()} at step {step}: lower optimization.lr or set optimization.max_grad_norm; "
            f"`seedtok train` then goes on, with --resume, from the last checkpoint under {run.out}, another command "
            "begins in another folder"
        )
