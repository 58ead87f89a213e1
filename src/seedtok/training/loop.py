"""The one training loop: any stage, any number of ranks, resumed exactly.

Nothing random carries over from step to step: the data, and the seed of every step's noise and dropout, are functions
of (seed, step, rank), so a run that is killed and resumed takes the same steps as one that never was.
"""

from contextlib import nullcontext
from pathlib import Path

import torch

from seedtok.core.locks import locked
from seedtok.core.processes import is_main_rank, stop_requests
from seedtok.training.checkpoints import list_checkpoints
from seedtok.training.config import RunConfig
from seedtok.training.distributed import mean_over_ranks
from seedtok.training.log import Log
from seedtok.training.run import Run
from seedtok.training.saving import export, save
from seedtok.training.setup import set_up
from seedtok.training.step import take_step
from seedtok.training.validation import validate

GOING_ON = "the same command goes on from there, `seedtok train` with --resume"
STOPPING = "stopping after this step; Ctrl-C once more stops at once, without a checkpoint"


def train(config: RunConfig, out: Path, resume: bool = False) -> Path:
    """Runs a recipe; returns OUT/final, the folder in the format its users load.

    Raises ConfigError when OUT already holds a run and `resume` is false; ConfigError or DataError, before the first
    step, for data that the stage cannot learn from or be validated on; CheckpointError when there is nothing to
    resume or the checkpoint cannot be read; BusyError when another process trains into OUT; TrainingError when the loss
    is no longer a number. On Ctrl-C or SIGTERM the step is finished and a checkpoint saved before KeyboardInterrupt is
    raised.
    """
    with locked(out) if is_main_rank() else nullcontext():
        run = set_up(config, out, resume)
        train_steps(run)
        return export(run)


def train_steps(run: Run) -> None:
    """Takes all steps that are left, and logs, validates and saves checkpoints in between and at the end.

    Raises KeyboardInterrupt after the step in which a rank was asked to stop, with a checkpoint saved.
    """
    config, steps = run.config, run.config.optimization.steps
    data = run.batches()
    run.stage.train()
    with Log(run) as log, stop_requests(STOPPING if run.is_main else "") as stop:
        if _is_due(run) and not _on_any_rank(log.is_validated(run.first_step), run):  # stopped before it, or in it
            log.validation(run.first_step, *validate(run))
        for step in range(run.first_step, steps):
            losses = take_step(run, data, step)
            done = step + 1
            last = done == steps
            if done % config.log_every == 0 or last:
                log.losses(step, mean_over_ranks(losses))
                for notice in run.stage.notices():
                    log.warn(step, notice)
            log.advance(done)
            if last:
                save(run, done)  # first: nothing that goes wrong from here on loses what is trained
            stops = _on_any_rank(bool(stop), run)
            if last or (done % config.validate_every == 0 and not stops):  # who stops may have seconds to save
                log.validation(done, *validate(run))  # but for the last, before saving: if killed between, done again
                stops = _on_any_rank(bool(stop), run)
            if not last and (stops or done % config.checkpoint_every == 0):
                save(run, done)
            if stops:
                if run.is_main:  # others may not see the folder
                    saved = f"saved as {list_checkpoints(run.out)[-1]}"
                    log.say(f"stopped after step {done} of {steps}, {saved}: {GOING_ON}")
                raise stop.error()


def _is_due(run: Run) -> bool:
    """Whether a run goes on from a step after which it is validated."""
    first, config = run.first_step, run.config
    return first > 0 and (first % config.validate_every == 0 or first == config.optimization.steps)


def _on_any_rank(is_so: bool, run: Run) -> bool:
    """Whether something is so on a rank; with several, all of them learn of it after the same step."""
    if run.world_size == 1:
        return is_so
    return mean_over_ranks({"": torch.tensor(float(is_so))})[""] > 0
