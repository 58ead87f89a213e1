"""Shards encoded by the processes of a Ray cluster, on one machine or on many: each has the model, and takes a shard.

A process writes the whole file of a shard or none of it, and a shard whose process ends goes to another one, so every
shard is encoded exactly once, whatever ends. All machines see the shards and the output folder under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seedtok.core.atomic import remove_leftovers
from seedtok.core.errors import CheckpointError, ConfigError, DataError, SeedTokError
from seedtok.core.processes import keep_freed_memory
from seedtok.data.bulk import Encoder, gather, maker_of, tokenize_shard
from seedtok.data.codes import TokenizeReport
from seedtok.data.origins import Maker, Source, plan_shards
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits

TRIES = 5  # processes that may end over one shard, before that is taken for the shard's fault
DEVICES = ("auto", "cpu", "cuda")
STORE = 100 << 20  # bytes of shared memory of a cluster that is started here; no image goes through it


@dataclass(frozen=True)
class RayEngine:
    """Encodes shards on a Ray cluster: `tokenize_shards` in many processes.

    Args:
        load: gives the encoder on a device, "cpu" or "cuda"; called in each process, so it has to be picklable.
        address: of a running cluster, as `ray.init` takes it; by default that of RAY_ADDRESS, or else a cluster of all
            cores and GPUs of this machine, which is started and stopped again.
        device: "cpu", a process a core; "cuda", a process a GPU; "auto", GPUs where the cluster has any.
    """

    load: Callable[[str], Encoder]
    address: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ConfigError(
                f"device {self.device!r} with Ray, which assigns GPUs itself: expected {', '.join(DEVICES)}"
            )

    def tokenize(
        self, source: Source, out: str | Path, batch_size: int = 32,
        progress: Callable[[int], object] | None = None, overwrite: bool = False, limits: SkipLimits | None = None,
    ) -> TokenizeReport:  # fmt: skip
        """As `tokenize_shards`, whose arguments these are; files are complete when it stops for too many bad samples.

        Raises DataError as that does, and where `TRIES` processes ended over the same shard; ConfigError where the
        cluster cannot be reached or has no GPU; what `load` raises.
        """
        source = Path(source).absolute() if isinstance(source, str | Path) else [path.absolute() for path in source]
        samples, out = ShardSamples(source, shuffle=False, limits=limits), Path(out).absolute()
        needs_caption = samples.skipped.limits.needs_caption
        with _cluster(self.address) as ray, closing(self._pool(ray)) as pool:
            maker = pool.maker()
            plan = plan_shards(source, samples.paths, out, maker, overwrite, needs_caption)
            left = [path for path, _, count in plan if count is None]
            jobs = [_Job(path, out, maker, batch_size, overwrite, needs_caption) for path in left]
            report = gather(samples, plan, pool.run(jobs), progress)
        remove_leftovers(out)  # of processes that were killed on this machine
        return report

    def _pool(self, ray: Any) -> _Pool:
        """Processes that each ask the cluster for a GPU or a core, as many as there are."""
        cluster = ray.cluster_resources()
        gpus = 0 if self.device == "cpu" else int(cluster.get("GPU", 0))
        if self.device == "cuda" and not gpus:
            raise ConfigError("device cuda: the Ray cluster has no GPU; use auto or cpu")
        return _Pool(ray, self.load, bool(gpus), max(1, gpus or int(cluster.get("CPU", 1))))


@dataclass(frozen=True)
class _Job:
    shard: Path
    out: Path
    maker: Maker
    batch_size: int
    overwrite: bool
    needs_caption: bool


class _Worker:
    """The process: loads the encoder when it is first needed, so that an error of that is the call's own."""

    def __init__(self, load: Callable[[str], Encoder], device: str) -> None:
        keep_freed_memory()
        if device == "cpu":  # a core each; Ray leaves OMP_NUM_THREADS as it is where that is set
            import torch

            torch.set_num_threads(1)
        self._load, self._device = load, device
        self._encoder: Encoder | None = None

    def _encode(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._load(self._device)
        return self._encoder

    def maker(self) -> Maker:
        return maker_of(self._encode())

    def tokenize(self, job: _Job) -> TokenizeReport:
        encoder = self._encode()
        if (encoder.codebook_id, encoder.fingerprint) != (job.maker.codebook, job.maker.encoder):
            raise CheckpointError("the machines of the cluster have different image tokenizers under the same name")
        report = tokenize_shard(job.shard, job.out, encoder, job.batch_size, job.overwrite, job.needs_caption)
        files = (*report.written, *report.kept)  # kept: by a process that ended before it could say so
        return replace(report, written=files, kept=())


class _Pool:
    """As many workers as the cluster has room for; one that ends is replaced."""

    def __init__(self, ray: Any, load: Callable[[str], Encoder], on_gpu: bool, count: int) -> None:
        self._ray, self._count = ray, count
        self._kind = ray.remote(num_cpus=1, num_gpus=int(on_gpu))(_Worker)
        self._arguments = load, "cuda" if on_gpu else "cpu"
        self._all: list[Any] = []
        self._idle = [self._start()]
        errors = ray.exceptions
        self._lost = (
            errors.RayActorError, errors.NodeDiedError, errors.WorkerCrashedError, errors.OutOfMemoryError,
            errors.ObjectLostError,
        )  # fmt: skip
        self._ended: Counter[Path | None] = Counter()  # by shard; None before the first

    def _start(self) -> Any:
        self._all.append(self._kind.remote(*self._arguments))
        return self._all[-1]

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._all:
            with suppress(Exception):  # one that has ended
                self._ray.kill(worker)

    def maker(self) -> Maker:
        """What makes the codes, as the first worker says."""
        while True:
            worker = self._idle.pop()
            with self._replacing(worker, None):
                found = self._result(worker.maker.remote())
                self._idle.append(worker)
                return found

    def run(self, jobs: list[_Job]) -> Iterator[TokenizeReport]:
        """Yields what came of each job as it ends."""
        self._idle += [self._start() for _ in range(min(self._count, len(jobs)) - len(self._idle))]
        waiting, running = deque(jobs), {}
        while waiting or running:
            while waiting and self._idle:
                worker, job = self._idle.pop(), waiting.popleft()
                running[worker.tokenize.remote(job)] = worker, job
            (reference,), _ = self._ray.wait(list(running), num_returns=1)
            worker, job = running.pop(reference)
            done = None
            with self._replacing(worker, job.shard):
                done = self._result(reference)
            if done is None:
                waiting.append(job)
            else:
                self._idle.append(worker)
                yield done

    @contextmanager
    def _replacing(self, worker: Any, shard: Path | None) -> Iterator[None]:
        """Starts another worker where this one ended; raises DataError where that was the last try."""
        try:
            yield
        except self._lost as error:
            with suppress(Exception):  # one that cannot be reached may still run
                self._ray.kill(worker)
            self._ended[shard] += 1
            if self._ended[shard] == TRIES:
                reason = next(line for line in reversed(str(error).splitlines()) if line.strip()).strip()[:200]
                raise DataError(
                    f"{shard or 'the model'}: {TRIES} processes ended over it, the last: {reason}"
                ) from None
            self._idle.append(self._start())

    def _result(self, reference: Any) -> Any:
        """The result of a call; an error of this package that it raised is raised here."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SeedTokError):
                raise error.cause from None
            raise


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; what is started or connected here is stopped or left at the end."""
    import ray  # pyright: ignore[reportMissingImports]

    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    own = {} if address else {"include_dashboard": False, "object_store_memory": STORE}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray raises plain Exception where a process of its own does not start in time
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"cannot start or reach the Ray cluster {address or 'of this machine'}: {reason}") from None
    try:
        yield ray
    finally:
        ray.shutdown()
