"""The processor cores that this process may use, and those that are free for a run."""

import os

import pytest

from seedtok.core import cores
from seedtok.core.cores import spare_cores, usable_cores, use_no_more_threads_than_cores


@pytest.fixture
def of_machine(monkeypatch):
    """Makes the machine look as if it had so many cores."""

    def set_count(count: int) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)

    return set_count


@pytest.mark.parametrize(("count", "load", "spare"), [(2, 0.1, 2), (2, 1.1, 1), (2, 9.0, 1), (8, 3.4, 5), (1, 0.0, 1)])
def test_threads_are_the_cores_that_others_leave(monkeypatch, of_machine, count, load, spare):
    of_machine(count)
    monkeypatch.setattr(cores, "_others_running", lambda: load)
    monkeypatch.setattr(cores, "_limits", lambda _: [count])
    assert spare_cores() == spare


@pytest.mark.parametrize(
    ("group", "files", "usable"),
    [
        ("0::/", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/", {"cpu.max": "max 100000\n"}, 64),
        ("0::/", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/", {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "400000 100000", "a/b/cpu.max": "800000 100000"}, 4),
        ("0::/docker/gone", {"cpu.max": "300000 100000"}, 3),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/x", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 64),
        ("4:memory:/\n0::/", {"memory/cpu.max": "1 1"}, 64),
        ("0::/", {"cpu.max": "what\n"}, 64),
        ("0::/", {"cpu.max": "100000 0\n"}, 64),
        ("nothing", {}, 64),
        (None, {}, 64),
    ],
)
def test_a_containers_quota_is_what_may_be_used(tmp_path, of_machine, group, files, usable):
    of_machine(64)
    if group is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cores(tmp_path) == usable


@pytest.mark.parametrize(("quota", "before", "after"), [(2, None, "2"), (2, "3", "3"), (64, None, None)])
def test_threads_are_limited_to_a_quota_unless_they_are_set(monkeypatch, of_machine, quota, before, after):
    of_machine(64)
    monkeypatch.setattr(cores, "_limits", lambda _: [64, quota])
    monkeypatch.setenv("OMP_NUM_THREADS", before or "")
    if before is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    use_no_more_threads_than_cores()
    assert os.environ.get("OMP_NUM_THREADS") == after
