"""The one training loop: any stage, any number of ranks, resumed exactly.

Nothing random carries over from step to step: the data, and the seed of every step's noise and dropout, are functions
of (seed, step, rank), so a run that is killed and resumed takes the same steps as one that never was.
"""

import json
import math
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from seedtok.core.errors import CheckpointError, ConfigError, SeedTokWarning, TrainingError
from seedtok.core.locks import locked
from seedtok.core.processes import StopRequest, is_main_rank, stop_requests
from seedtok.core.records import json_value
from seedtok.data.batches import Stride
from seedtok.training.checkpoints import (
    list_checkpoints,
    load_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
    save_sharded_checkpoint,
)
from seedtok.training.config import Optimization, RunConfig
from seedtok.training.distributed import mean_over_ranks, reshard, shard, whole
from seedtok.training.ema import Ema
from seedtok.training.runs import accelerator_for, changes, read_config, try_export, write_config
from seedtok.training.token_mean import TokenMean


def learning_rate(optimization: Optimization, step: int) -> float:
    """Linear warm-up from 0, then a cosine down to `min_lr` at the last step."""
    o = optimization
    if step < o.warmup_steps:
        return o.lr * (step + 1) / o.warmup_steps
    done = (step - o.warmup_steps) / max(1, o.steps - o.warmup_steps)
    return o.min_lr + (o.lr - o.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: biases, norms and other 1-D parameters are not decayed."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim < 2 or n.endswith("bias")]
    decayed = [p for n, p in named if not (p.ndim < 2 or n.endswith("bias"))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def noise_seed(*numbers: int) -> int:
    """A seed of numbers such as (seed, step, micro-batch, rank): the same in every version of Python."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class _Log:
    """Numbers of a run: a JSON line, TensorBoard, and the console, on the main rank only."""

    def __init__(self, out: Path, first_step: int) -> None:
        self.path = out / "log.jsonl"
        if self.path.exists():  # forget what came after the checkpoint that the run goes on from
            written = self.path.read_text("utf-8", "replace").splitlines()
            lines = [line for line in written if self._is_before(line, first_step)]
            new = self.path.with_suffix(".new")
            new.write_text("".join(line + "\n" for line in lines))
            new.replace(self.path)
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=first_step or None)
        self.console = Console(stderr=True)

    @staticmethod
    def _is_before(line: str, first_step: int) -> bool:
        try:
            record = json_value(line)
            if type(record["step"]) is not int or not isinstance(record["kind"], str):
                return False
        except (ValueError, KeyError, TypeError):  # the run was killed while it wrote this line
            return False
        # training step n is what happens from n to n + 1; validation n is what holds at n
        return record["step"] < first_step + (record["kind"] == "validation" and first_step > 0)

    def write(self, step: int, numbers: dict[str, float], kind: str) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **numbers}) + "\n")
        for name, value in numbers.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)

    def warn(self, step: int, notice: str) -> None:
        """A line in the log and a SeedTokWarning, which commands print."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": "warning", "message": notice}) + "\n")
        warnings.warn(f"step {step}: {notice}", SeedTokWarning, stacklevel=3)


def train(config: RunConfig, out: Path, resume: bool = False) -> Path:
    """Runs a recipe; returns OUT/final, the folder in the format its users load.

    Raises ConfigError when OUT already holds a run and `resume` is false; ConfigError or DataError, before the first
    step, for data that the stage cannot learn from or be validated on; CheckpointError when there is nothing to
    resume or the checkpoint cannot be read; BusyError when another process trains into OUT; TrainingError when the loss
    is no longer a number. On Ctrl-C or SIGTERM the step is finished and a checkpoint saved before KeyboardInterrupt is
    raised.
    """
    with locked(out) if is_main_rank() else nullcontext():
        return _train(config, out, resume)


def _train(config: RunConfig, out: Path, resume: bool) -> Path:
    optimization = config.optimization
    config.data.check()
    accelerator = accelerator_for(config)
    if not resume and list_checkpoints(out):
        raise ConfigError(f"{out} already holds a run: continue it with --resume, or choose another folder")
    resumed = load_checkpoint(out) if resume else None
    changed = changes(read_config(out, [config]), config) if resumed else []
    first = _part(resumed[1], "state")["step"] if resumed else 0
    sharded = config.sharded and accelerator.num_processes > 1
    if sharded and config.precision == "fp16":
        raise ConfigError("sharded=true needs precision=bf16: the scaling of fp16's losses does not know of shards")
    if first > optimization.steps:
        raise ConfigError(f"{out} is at step {first} already: ask for more than {optimization.steps} steps")
    rank, world = accelerator.process_index, accelerator.num_processes

    torch.manual_seed(config.seed)
    stage = config.stage.build().to(accelerator.device)
    stage.lower(getattr(torch, config.frozen_precision))
    held_out = config.data.held_out(
        optimization.batch_size, config.validate_batches, config.seed, Stride(rank=rank, world_size=world)
    )
    for batch in (*config.data.first(optimization.batch_size, config.seed, 1), held_out[0]):
        stage.check(batch)
    if resumed:
        stage.load_own_state(_part(resumed[0], "stage"))
    else:
        stage.begin(b.to(accelerator.device) for b in config.data.batches(optimization.batch_size, config.seed))
        if accelerator.is_main_process:
            try_export(stage, out)
    if sharded:
        shard(stage, accelerator.device, ("validate", "draw"))
    optimizer = torch.optim.AdamW(
        decay_groups(stage, optimization.weight_decay), lr=optimization.lr, betas=optimization.betas, fused=True
    )
    if resumed:
        load_optimizer_state(optimizer, stage, _part(resumed[0], "optimizer"))
    wrapped, optimizer = (stage, accelerator.prepare(optimizer)) if sharded else accelerator.prepare(stage, optimizer)
    if resumed and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(_part(resumed[1], "scaler"))
    ema = Ema(stage, optimization.ema_decay) if optimization.ema_decay else None
    if ema and resumed:
        ema.load(_part(resumed[0], "ema"))

    out.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        write_config(config, out)
    log = _Log(out, first) if accelerator.is_main_process else None
    if log:
        for change in changed:
            log.console.print(change)
    micro_batch = optimization.batch_size * world
    per_step = optimization.accumulate * micro_batch
    # a run may go on with other ranks or batches: after the samples it has seen
    seen = _part(resumed[1], "state").get("samples", first * per_step) if resumed else 0
    data = config.data.batches(optimization.batch_size, config.seed, Stride(seen, rank, world), out / "skipped.jsonl")
    averaged = ema.applied if ema else nullcontext

    def checkpoint(step: int) -> None:
        accelerator.wait_for_everyone()
        files = {"stage": stage.own_state(), "optimizer": optimizer_state(optimizer, stage)}
        if ema:
            files["ema"] = ema.average
        records: dict[str, Any] = {"state": {"step": step, "samples": seen + (step - first) * per_step}}
        if accelerator.scaler is not None:  # of fp16
            records["scaler"] = accelerator.scaler.state_dict()
        if sharded:
            save_sharded_checkpoint(out, step, files, records, config.keep_checkpoints)
        elif accelerator.is_main_process:
            save_checkpoint(out, step, files, records, config.keep_checkpoints)
        accelerator.wait_for_everyone()  # a rank that left before would have the launcher stop the one that writes

    def validate(step: int) -> None:
        there = [batch.to(accelerator.device) for batch in held_out]
        stage.eval()
        torch.manual_seed(noise_seed(config.seed, rank))
        with averaged(), torch.no_grad(), accelerator.autocast():
            numbers = stage.validate(there)
            picture = stage.draw(there[0]) if log or sharded else None  # of parts, every rank has to bring its own
        reshard(stage)
        stage.train()
        if log:
            log.write(step, numbers, "validation")
            log.console.print(f"step {step}: validation " + _words(numbers))
            if picture is not None:
                (out / "pictures").mkdir(exist_ok=True)
                picture.save(out / "pictures" / f"{step:08d}.png")

    stage.train()
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=log.console if log else None, disable=not log or not log.console.is_terminal,
    )  # fmt: skip
    message = "stopping after this step; once more stops at once, without a checkpoint"
    with progress, stop_requests(message if log else "") as stop:
        task = progress.add_task(config.recipe, total=optimization.steps, completed=first, rate="", loss="")
        for step in range(first, optimization.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optimization, step)
            sums: dict[str, Tensor] = {}
            tokens = TokenMean()
            for micro in range(optimization.accumulate):
                batch = next(data).to(accelerator.device)
                torch.manual_seed(noise_seed(config.seed, step, micro, rank))
                with accelerator.accumulate(wrapped):
                    with accelerator.autocast():
                        losses = dict(wrapped(batch))
                    losses["loss"] = losses["loss"] * tokens.weight(losses.pop("count", None))
                    if not torch.isfinite(losses["loss"]):
                        raise TrainingError(
                            f"the loss is {losses['loss'].item()} at step {step}: lower optimization.lr or set "
                            f"optimization.max_grad_norm, and --resume from the last checkpoint under {out}"
                        )
                    accelerator.backward(losses["loss"])
                    if accelerator.sync_gradients:
                        tokens.correct(stage.parameters())
                    if accelerator.sync_gradients and optimization.max_grad_norm:
                        accelerator.clip_grad_norm_(stage.parameters(), optimization.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                for name, value in losses.items():
                    sums[name] = sums.get(name, torch.zeros(())) + value.detach().cpu() / optimization.accumulate
            sums["loss"] *= tokens.correction
            done = step + 1
            if ema:
                ema.update(step)
            logged = done % config.log_every == 0 or done == optimization.steps
            numbers = mean_over_ranks(sums) if logged else {}
            if log and logged:
                log.write(step, numbers | {"lr": learning_rate(optimization, step)}, "train")
                speed = progress.tasks[task].speed or 0.0
                rate = f"{speed * optimization.accumulate * micro_batch:.0f} samples/s"
                progress.update(task, rate=rate, loss=_words(numbers))
                if not log.console.is_terminal:
                    log.console.print(f"step {done}/{optimization.steps} {rate} {_words(numbers)}")
            for notice in stage.notices() if logged else []:
                if log:
                    log.warn(step, notice)
            progress.update(task, completed=done)
            if done % config.validate_every == 0 or done == optimization.steps:
                validate(done)  # before the checkpoint, so that a run killed between them validates again
            stops = _any_rank_stops(stop, world)
            if stops or (done % config.checkpoint_every == 0 and done < optimization.steps):
                checkpoint(done)
            if stops:
                if log:
                    log.board.close()
                    saved = list_checkpoints(out)[-1]
                    log.console.print(
                        f"stopped after step {done} of {optimization.steps}, saved as {saved}: go on with the same "
                        "command and --resume", soft_wrap=True, highlight=False,
                    )  # fmt: skip
                raise stop.error()
    checkpoint(optimization.steps)
    final = out / "final"
    stage.eval()
    with averaged():
        state = whole(stage.own_state()) if sharded else {}
        if sharded:  # an export is of whole parameters
            stage = config.stage.build()
            stage.load_own_state(state)
        if accelerator.is_main_process:
            stage.export(final)
    if log:
        log.board.close()
    del wrapped  # and with it what refers to the process group, or ending that can wait for ever
    accelerator.free_memory()
    accelerator.end_training()
    return final


def _any_rank_stops(stop: StopRequest, world: int) -> bool:
    """Whether a rank has been asked to stop; with several, all of them learn of it after the same step."""
    return bool(stop) if world == 1 else mean_over_ranks({"stop": torch.tensor(float(bool(stop)))})["stop"] > 0


def _part(checkpoint: dict[str, Any], name: str) -> Any:
    if name not in checkpoint:
        raise CheckpointError(f"the checkpoint has no {name!r}: it is not complete, or of a run without one")
    return checkpoint[name]


def _words(numbers: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
