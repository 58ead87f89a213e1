"""What a run leaves behind: checkpoints to go on from, and its result in the format that its users load."""

from pathlib import Path
from typing import Any

from seedtok.training.checkpoints import optimizer_state, save_by_main_rank, save_sharded_checkpoint
from seedtok.training.distributed import gather_full
from seedtok.training.run import Run


def save(run: Run, step: int) -> None:
    """Writes the checkpoint of the state after so many steps; called on every rank.

    Raises CheckpointError, on all ranks, when it cannot be written.
    """
    run.accelerator.wait_for_everyone()
    tensors = {"stage": run.stage.own_state(), "optimizer": optimizer_state(run.optimizer, run.stage)}
    if run.ema:
        tensors["ema"] = run.ema.average
    samples = run.first_sample + (step - run.first_step) * run.samples_per_step
    state = {"step": step, "samples": samples, "samples_per_step": run.samples_per_step}
    records: dict[str, Any] = {"state": state}
    if run.accelerator.scaler is not None:  # of fp16
        records["scaler"] = run.accelerator.scaler.state_dict() | {"left_out": run.left_out}
    if run.sharded:
        save_sharded_checkpoint(run.out, step, tensors, records, run.config.keep_checkpoints)
    else:
        save_by_main_rank(run.out, step, tensors, records, run.config.keep_checkpoints)
    run.accelerator.wait_for_everyone()  # if a rank ended earlier, the launcher would stop the one that writes


def export(run: Run) -> Path:
    """Writes OUT/final, with averaged parameters where the run keeps them, and ends the run; called on every rank."""
    final, stage = run.out / "final", run.stage
    stage.eval()
    with run.averaged():
        if run.sharded:  # an export is of full parameters
            state = gather_full(stage.own_state())
            if run.is_main:
                stage = run.config.stage.build()
                stage.load_own_state(state)
        if run.is_main:
            stage.export(final)
    run.model = run.stage  # the wrapped model refers to the process group, whose end could otherwise wait for ever
    run.accelerator.free_memory()
    run.accelerator.end_training()
    return final
