"""Shards encoded by several processes of this machine, of one thread each.

Reading, decoding and normalising images, and writing codes, are work of one core beside the encoder's products. A
process that has a core of its own does them without keeping other cores waiting: so N processes of one thread encode
more than one process of N threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing.synchronize import Event
from pathlib import Path

from seedtok.core.errors import ConfigError, DataError
from seedtok.core.processes import keep_freed_memory
from seedtok.data.bulk import Encoder, gather, maker_of, tokenize_shard
from seedtok.data.codes import TokenizeReport
from seedtok.data.origins import Maker, Source, plan_shards
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits


def tokenize_in_processes(
    load: Callable[[], Encoder], workers: int, source: Source, out: str | Path, batch_size: int = 32,
    progress: Callable[[int], object] | None = None, overwrite: bool = False, limits: SkipLimits | None = None,
) -> TokenizeReport:  # fmt: skip
    """As `tokenize_shards`, by `workers` processes, each of which encodes whole shards.

    `load` gives the encoder; it is called in each process, so it has to be picklable, and its module importable. Raises
    DataError as `tokenize_shards` does, and where a process is killed; ConfigError for less than one worker.
    """
    if workers < 1:
        raise ConfigError(f"{workers} workers: give 1 or more")
    samples, out = ShardSamples(source, shuffle=False, limits=limits), Path(out)
    needs_caption = samples.skipped.limits.needs_caption
    # spawn: a fork of a process whose threads have computed can hang
    processes = multiprocessing.get_context("spawn")
    stopped = processes.Event()
    pool = ProcessPoolExecutor(workers, processes, _start, (load, stopped))
    with pool:
        try:
            maker = pool.submit(_maker).result()
            plan = plan_shards(source, samples.paths, out, maker, overwrite, needs_caption)
            job = partial(_tokenize, out=out, batch_size=batch_size, overwrite=overwrite, needs_caption=needs_caption)
            jobs: list[Future[TokenizeReport]] = [pool.submit(job, path) for path, _, count in plan if count is None]
            return gather(samples, plan, (done.result() for done in as_completed(jobs)), progress)
        except BrokenProcessPool:
            raise DataError("a process that encoded shards was ended, perhaps for memory: give fewer workers") from None
        finally:
            stopped.set()  # of jobs that the processes have been handed already
            pool.shutdown(wait=False, cancel_futures=True)


_encoder: Callable[[], Encoder]  # of this process, where it is a worker
_stopped: Event


def _start(load: Callable[[], Encoder], stopped: Event) -> None:
    """Makes this process a worker, of one thread. An encoder that cannot be loaded is an error of the first job."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # in an import, Ctrl-C would print where it came
    import torch

    signal.signal(signal.SIGINT, handler)
    global _encoder, _stopped
    keep_freed_memory()
    torch.set_num_threads(1)
    _encoder, _stopped = cache(load), stopped


def _end_with_parent() -> None:
    """Ends this process when the one that started it has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _maker() -> Maker:
    return maker_of(_encoder())


def _tokenize(shard: Path, out: Path, batch_size: int, overwrite: bool, needs_caption: bool) -> TokenizeReport:
    if _stopped.is_set():
        return TokenizeReport((), (), 0)
    return tokenize_shard(shard, out, _encoder(), batch_size, overwrite, needs_caption)
