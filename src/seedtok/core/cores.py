"""The processor cores that this process may use: those it is bound to, a container's quota, and what others leave."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")
THREADS = "OMP_NUM_THREADS"
_limited = False  # whether `use_no_more_threads_than_cores` has set that
READERS = 16  # threads, at most, that read images for an encoder on a GPU


def usable_cores(root: Path = ROOT) -> int:
    """The number of cores that this process may use, at least 1: those it is bound to, or a container's quota of them.

    `docker run --cpus` and the limits of Kubernetes are quotas of time: a process sees all cores of the machine, and if
    it has a thread for each, they use the quota up together and all wait for the next period. Rounded up.
    """
    return max(1, min(_limits(root)))


def _bound_cores() -> int:
    """The number of cores that this process is bound to, by default all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limits(root: Path) -> list[int]:
    """The cores that this process is bound to, and the quotas of its control group and of those above it, rounded up.

    Control groups (cgroups) are Linux's, in two versions.
    """
    found = [_bound_cores()]
    lines = list[str]()
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        _, controllers, group = line.split(":", 2) if line.count(":") > 1 else ("", "none", "/")
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        for above in (PurePosixPath(group), *PurePosixPath(group).parents):  # in a container the last alone is there
            folder = root / "sys/fs/cgroup" / controllers / str(above).lstrip("/")
            with suppress(OSError, ValueError, ZeroDivisionError):
                if controllers:
                    quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                else:
                    quota, period = (folder / "cpu.max").read_text().split()
                if quota.strip() != "max" and int(quota) > 0:
                    found.append(math.ceil(int(quota) / int(period)))
    return found


def reading_threads(device: str) -> int:
    """The number of threads that should read images for an encoder on a device such as "cuda"; on "cpu" it is one.

    A thread decodes and stretches about 200 photographs a second, and a GPU encodes thousands. Each process of a
    machine has as many.
    """
    return 1 if device == "cpu" else min(READERS, usable_cores())


def use_no_more_threads_than_cores() -> None:
    """Limits OpenMP, and so PyTorch, to a container's quota, unless OMP_NUM_THREADS says otherwise.

    For programs, before they import PyTorch; processes that they start are limited too.
    """
    global _limited
    cores = usable_cores()
    if cores < _bound_cores() and THREADS not in os.environ:
        os.environ[THREADS], _limited = str(cores), True


def threads_are_given() -> bool:
    """Whether OMP_NUM_THREADS says how many threads to use, and that is not the limit that was set here."""
    return THREADS in os.environ and not _limited


def spare_cores() -> int:
    """The number of usable cores that no other process uses, at least 1.

    Measured over a fifth of a second. More threads than free cores wait for one another, and PyTorch's wait by
    spinning: beside another job on two cores, training with two threads ran at a tenth of the speed of one thread.
    """
    cores = usable_cores()
    free = (os.cpu_count() or cores) - round(_others_running())  # counted over the whole machine
    return max(1, min(cores, free))


def _others_running(samples: int = 20, seconds: float = 0.2) -> float:
    """The mean number of other running threads over a period of `seconds`; 0 where it cannot be measured."""
    running = []
    for _ in range(samples):
        try:
            counts = Path("/proc/loadavg").read_text().split()[3]  # running/all, including this thread
            running.append(max(0, int(counts.partition("/")[0]) - 1))
        except (OSError, ValueError, IndexError):
            return 0.0
        time.sleep(seconds / samples)
    return sum(running) / samples
