"""The numbers of a run: JSON lines, TensorBoard, and the console with its progress bar."""

import json
import math
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from seedtok.core.notices import warn
from seedtok.core.records import json_value
from seedtok.training.run import Run
from seedtok.training.schedule import learning_rate


class Log:
    """Writes OUT/log.jsonl, OUT/tensorboard and OUT/pictures; on the main rank alone, elsewhere nothing.

    Used as a context, within which the progress bar is shown.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.enabled = run, run.is_main
        self.console = Console(stderr=True, quiet=not self.enabled)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=self.console, disable=not (self.enabled and self.console.is_terminal),
        )  # fmt: skip
        if self.enabled:
            self.path = run.out / "log.jsonl"
            drop_lines_from(self.path, run.first_step)
            self.board = SummaryWriter(str(run.out / "tensorboard"), purge_step=run.first_step or None)

    def __enter__(self) -> "Log":
        for change in self.run.changes:
            self.say(change)
        self.progress.start()
        steps = self.run.config.optimization.steps
        self.task = self.progress.add_task(
            self.run.config.recipe, total=steps, completed=self.run.first_step, rate="", loss=""
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.enabled:
            self.board.close()

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, highlight=False)

    def advance(self, done: int) -> None:
        """Moves the progress bar on to the number of steps that have been taken."""
        self.progress.update(self.task, completed=done)

    def losses(self, step: int, numbers: dict[str, float]) -> None:
        """The losses of a step, means over ranks and micro-batches."""
        if not self.enabled:
            return
        optimization = self.run.config.optimization
        self._write(step, numbers | {"lr": learning_rate(optimization, step)}, "train")
        speed = self.progress.tasks[self.task].speed or 0.0  # steps a second
        rate = f"{speed * self.run.samples_per_step:.0f} samples/s"
        self.progress.update(self.task, rate=rate, loss=_line(numbers))
        if not self.console.is_terminal:
            self.say(f"step {step + 1}/{optimization.steps} {rate} {_line(numbers)}")

    def validation(self, done: int, numbers: dict[str, float], picture: Image.Image | None) -> None:
        """What was measured after so many steps."""
        if not self.enabled:
            return
        self._write(done, numbers, "validation")
        self.say(f"step {done}: validation {_line(numbers)}")
        if picture is not None:
            (self.run.out / "pictures").mkdir(exist_ok=True)
            picture.save(self.run.out / "pictures" / f"{done:08d}.png")

    def is_validated(self, done: int) -> bool:
        """Whether the log has a validation after so many steps; False on other ranks than the main one."""
        written = self.path.read_text("utf-8", "replace").splitlines() if self.enabled and self.path.exists() else []
        return any((record["step"], record["kind"]) == (done, "validation") for record in map(json_value, written))

    def warn(self, step: int, message: str) -> None:
        """A line in the log and a SeedTokWarning, which commands print."""
        if self.enabled:
            self._append({"step": step, "kind": "warning", "message": message})
            warn(f"step {step}: {message}")

    def _write(self, step: int, numbers: dict[str, float], kind: str) -> None:
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}  # of fp16 some may not be
        self._append({"step": step, "kind": kind, **finite})
        for name, value in finite.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)

    def _append(self, record: dict[str, object]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def drop_lines_from(path: Path, step: int) -> None:
    """Removes from a log what a run logged after the checkpoint at `step`, from which it goes on."""
    if not path.exists():
        return
    written = path.read_text("utf-8", "replace").splitlines()
    new = path.with_suffix(".new")
    new.write_text("".join(line + "\n" for line in written if _is_before(line, step)))
    new.replace(path)


def _is_before(line: str, step: int) -> bool:
    try:
        record = json_value(line)
        if type(record["step"]) is not int or not isinstance(record["kind"], str):
            return False
    except (ValueError, KeyError, TypeError):  # the run was killed while it wrote this line
        return False
    # training step n leads from n to n + 1; validation n is of the state at n
    return record["step"] < step + (record["kind"] == "validation" and step > 0)


def _line(numbers: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
