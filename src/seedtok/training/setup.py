"""How a run is set up: device, stage and optimizer, new or as the run's last checkpoint left them."""

from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env

from seedtok.core.atomic import LAST, hidden_folder, remove_leftovers
from seedtok.core.device import computes_bfloat16_fast
from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.data.batches import Batch, Stride
from seedtok.training.checkpoints import Checkpoint, list_checkpoints, load_checkpoint, load_optimizer_state
from seedtok.training.config import RunConfig
from seedtok.training.distributed import check_can_shard, differs_over_ranks, shard_parameters
from seedtok.training.ema import Ema
from seedtok.training.optimizer import adamw
from seedtok.training.run import Run
from seedtok.training.runs import changes, read_config, with_precision_of, write_config
from seedtok.training.sources import replaced_sources, write_sources
from seedtok.training.stage import Stage


def set_up(config: RunConfig, out: Path, resume: bool) -> Run:
    """A run before its first step, or before the one that follows its last checkpoint; writes OUT/config.json.

    Of a new run, also OUT/sources.json. Raises as `train` does.
    """
    config.data.check()
    if resume:
        config, changed, checkpoint = _resumed(config, out)
    elif list_checkpoints(out):
        raise ConfigError(f"{out} already holds a run: continue it with --resume, or choose another folder")
    elif any((out / "final" / name).is_file() for name in LAST):  # its checkpoints were removed
        raise ConfigError(f"{out} already holds the result of a run: choose another folder, or remove {out / 'final'}")
    else:
        config, changed, checkpoint = with_precision(config), [], None
    accelerator = accelerator_for(config)
    if differs_over_ranks(checkpoint.step if checkpoint else 0):
        raise CheckpointError(
            f"processes of this run see different checkpoints under {out}: some file systems show new ones late, so "
            "start it again in a minute"
        )
    if accelerator.is_main_process:  # which holds the lock of the folder
        for folder in (out, out / "checkpoints", out / "final"):
            remove_leftovers(folder, alone=True)
    sharded = config.sharded and accelerator.num_processes > 1
    if sharded and config.precision == "fp16":
        raise ConfigError(
            "sharded=true needs precision=bf16 frozen_precision=bfloat16: fp16's loss scaling does not support sharded "
            "parameters"
        )
    stage, held_out = _stage(config, accelerator, out, checkpoint)
    if sharded:
        check_can_shard(stage)
        shard_parameters(stage, accelerator.device, ("validate", "draw"))
    optimizer = adamw(stage, config.optimization)
    if checkpoint:
        load_optimizer_state(optimizer, stage, checkpoint.tensors_of("optimizer"))
    model, optimizer = (stage, accelerator.prepare(optimizer)) if sharded else accelerator.prepare(stage, optimizer)
    run = Run(config, out, accelerator, held_out, stage, model, optimizer, sharded=sharded, changes=changed)
    if config.optimization.ema_decay:
        run.ema = Ema(stage, config.optimization.ema_decay)
    if checkpoint:
        _continue(run, checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    if run.is_main:
        write_config(config, out)
        if not checkpoint:
            write_sources(config, out)
    return run


def _resumed(config: RunConfig, out: Path) -> tuple[RunConfig, list[str], Checkpoint]:
    """The configuration that a run goes on with, what changed in it, and the checkpoint that it goes on from."""
    checkpoint = load_checkpoint(out)
    before = read_config(out, [config])
    config = with_precision_of(before, config)
    changed = [*changes(before, config), *replaced_sources(config, out)]
    steps = config.optimization.steps
    if checkpoint.step > steps:
        raise ConfigError(f"{out} is at step {checkpoint.step} already: ask for more than {steps} steps")
    return config, changed, checkpoint


def with_precision(config: RunConfig) -> RunConfig:
    """The configuration with precision "auto" resolved, for the device of this process."""
    if config.precision != "auto":
        return config
    device = _connect(config).device
    assert device is not None
    return config.model_copy(update={"precision": fast_precision(device)})


def _connect(config: RunConfig) -> PartialState:
    """Connects the ranks, if they are not yet: how long they wait for one another can only be said now."""
    timeout = timedelta(minutes=config.timeout_minutes)
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timeout)


def fast_precision(device: torch.device) -> str:
    """What precision "auto" is: bfloat16 where the device computes it fast, else float32."""
    return "bf16" if computes_bfloat16_fast(device) else "no"


def accelerator_for(config: RunConfig) -> Accelerator:
    """What places a run on its devices; raises ConfigError for float16 on CPUs, and for precisions that do not fit."""
    problem = ConfigError("float16 needs a GPU to train on: set precision=bf16 frozen_precision=bfloat16")
    if config.precision == "bf16" and config.frozen_precision == "float16":  # each use would make a bfloat16 copy
        raise ConfigError("frozen_precision=float16 does not go with precision=bf16: set frozen_precision=bfloat16")
    if config.precision == "no" and config.frozen_precision != "float32":
        raise ConfigError(
            f"frozen_precision={config.frozen_precision} needs autocast, precision=bf16 or fp16, or set "
            "frozen_precision=float32"
        )
    _connect(config)
    try:
        accelerator = Accelerator(
            mixed_precision=config.precision, gradient_accumulation_steps=config.optimization.accumulate,
            step_scheduler_with_optimizer=False,
        )  # fmt: skip
    except ValueError as error:  # some releases of accelerate look at the device themselves
        if config.precision == "fp16" and "requires a GPU" in str(error):
            raise problem from None
        if "already been initialized" in str(error):  # accelerate keeps a process's first precision
            reason = f"a run of this process had another precision: train with {config.precision} in a new one"
            raise ConfigError(reason) from None
        raise
    if accelerator.device.type == "cpu" and config.precision == "fp16":
        raise problem
    return accelerator


def _stage(
    config: RunConfig, accelerator: Accelerator, out: Path, checkpoint: Checkpoint | None
) -> tuple[Stage, list[Batch]]:
    """The stage, and what this rank validates it on.

    The data are checked first; then the stage is initialised from training batches, which are the same on all ranks, or
    restored from a checkpoint.
    """
    data, size, seed = config.data, config.optimization.batch_size, config.seed
    torch.manual_seed(seed)
    stage = config.stage.build()
    if data.codes is None and data.interpolation != stage.interpolation:
        raise ConfigError(
            f"the image encoder takes images stretched by {stage.interpolation} interpolation: set "
            f"data.interpolation={stage.interpolation}"
        )
    stage.cast_frozen(getattr(torch, config.frozen_precision))  # first: the device needs room for that alone
    stage.to(accelerator.device)
    stride = Stride(rank=accelerator.process_index, world_size=accelerator.num_processes)
    held_out = data.held_out(size, config.validate_batches, seed, stride)
    for batch in (*data.first(size, seed, 1), held_out[0]):
        stage.check_batch(batch)
    if checkpoint:
        stage.load_own_state(checkpoint.tensors_of("stage"))
    else:
        stage.initialize(batch.to(accelerator.device) for batch in data.batches(size, seed))
        if accelerator.is_main_process:
            try_export(stage, out)
    return stage, held_out


def try_export(stage: Stage, out: Path) -> None:
    """Exports a stage into a folder inside OUT and removes it: what cannot be saved is not trained.

    Raises whatever the export raises.
    """
    out.mkdir(parents=True, exist_ok=True)
    with hidden_folder(out) as folder:
        stage.export(folder / "export")


def _continue(run: Run, checkpoint: Checkpoint) -> None:
    """Restores what is neither the stage's nor the optimizer's: scaler, moving average, place in the data."""
    scaling = checkpoint.records.get("scaler", {})  # none where the run had another precision before
    left_out = scaling.pop("left_out", 0)
    if run.accelerator.scaler is not None and scaling and not left_out:  # a scale that found no end begins anew
        run.accelerator.scaler.load_state_dict(scaling)
    if run.ema:
        run.ema.load(checkpoint.tensors_of("ema"))
    run.first_step = checkpoint.step
    # a run may go on with other ranks or batch sizes: after the samples that it has seen
    samples = checkpoint.samples
    run.first_sample = checkpoint.step * run.samples_per_step if samples is None else samples
    before = checkpoint.samples_per_step
    if before is not None and before != run.samples_per_step:
        processes = f"{run.world_size} process{'es' if run.world_size > 1 else ''}"
        run.changes.append(f"a step was of {before} samples and is of {run.samples_per_step} now, by {processes}")
