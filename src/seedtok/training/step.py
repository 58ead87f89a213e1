"""One optimizer step of any stage."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from seedtok.core.errors import TrainingError
from seedtok.data.batches import Batch
from seedtok.training.distributed import gather_full
from seedtok.training.optimizer import set_rate
from seedtok.training.run import Run
from seedtok.training.schedule import learning_rate, noise_seed
from seedtok.training.stage import Losses
from seedtok.training.token_mean import TokenMean

MAX_LEFT_OUT = 24  # each halves the scale, which begins at 65,536


def take_step(run: Run, data: Iterator[Batch], step: int) -> Losses:
    """Trains on the next micro-batches; returns the mean of each loss over them, on this rank.

    Nothing random carries over from one step to the next: the noise and dropout of a micro-batch are a function of
    (seed, step, micro-batch, rank). Raises TrainingError, with the weights as they were, when the loss or a gradient is
    not finite. With fp16 such a step is left out, and its loss scaled less from then on: only `MAX_LEFT_OUT` of them in
    a row are an error. Beside the losses are then `scale` and `left_out`, how many there were in a row so far.
    """
    optimization, accelerator = run.config.optimization, run.accelerator
    means: dict[str, Tensor] = {}
    tokens = TokenMean()
    scale = 0.0 if accelerator.scaler is None else accelerator.scaler.get_scale()
    set_rate(run.optimizer, learning_rate(optimization, step))
    for micro in range(optimization.accumulate):
        batch = next(data).to(accelerator.device)
        torch.manual_seed(noise_seed(run.config.seed, step, micro, run.rank))
        with accelerator.accumulate(run.model):
            with accelerator.autocast():
                losses = dict(run.model(batch))
            losses["loss"] = losses["loss"] * tokens.weight(losses.pop("count", None))
            if accelerator.scaler is None:
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
    if accelerator.scaler is not None:
        means |= _scaling(run, scale, accelerator.scaler.get_scale(), step)
    if run.ema:
        run.ema.update(step)
    return means


def _scaling(run: Run, before: float, scale: float, step: int) -> Losses:
    """fp16's loss scale, and the steps left out in a row: those after which it is smaller than before.

    All ranks have the same, as they have the same gradients. Nothing else says that a fused optimiser left a step out.
    """
    run.left_out = run.left_out + 1 if scale < before else 0
    if run.left_out > MAX_LEFT_OUT:
        raise TrainingError(
            f"{run.left_out} steps in a row, up to step {step}, had no finite gradient: go on with --resume and "
            "precision=bf16 frozen_precision=bfloat16, or precision=no frozen_precision=float32, or with a lower "
            "optimization.lr"
        )
    return {"scale": torch.tensor(scale), "left_out": torch.tensor(float(run.left_out))}


def _check_finite(value: Tensor, run: Run, step: int, what: str = "loss") -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"the {what} is {value.item()} at step {step}: lower optimization.lr or set optimization.max_grad_norm; "
            f"`seedtok train` then goes on, with --resume, from the last checkpoint under {run.out}, another command "
            "begins in another folder"
        )
