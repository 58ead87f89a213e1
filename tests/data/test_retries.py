"""Errors of the disk or the network: those that may pass are tried again, others are told as what they are."""

import errno
import os
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.data import retries, samples, tars
from seedtok.data.retries import PAUSES, retried
from seedtok.data.samples import read_sample
from seedtok.data.stored import png_bytes
from seedtok.data.tars import count_samples, index_samples


class Failing:
    """Calls a function after failing so many times with an OSError of a number."""

    def __init__(self, function, number: int, times: int) -> None:
        self.function, self.number, self.times, self.calls = function, number, times, 0

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls <= self.times:
            raise OSError(self.number, os.strerror(self.number))
        return self.function(*arguments)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.0,) * len(PAUSES))


@pytest.fixture
def shard(tmp_path) -> Path:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for suffix, data in (("png", png_bytes(Image.new("RGB", (8, 8), "red"))), ("txt", b"a cat")):
            (member := tarfile.TarInfo(f"0.{suffix}")).size = len(data)
            tar.addfile(member, BytesIO(data))
    return tmp_path / "0.tar"


def test_errors_that_may_pass_are_tried_again():
    assert 1 < sum(PAUSES) < 10
    for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
        assert retried(failing := Failing(lambda: 5, number, len(PAUSES))) == 5
        assert failing.calls == len(PAUSES) + 1
        with pytest.raises(OSError, match=os.strerror(number)):
            retried(Failing(lambda: 5, number, len(PAUSES) + 1))
    for number in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOSPC):
        with pytest.raises(OSError, match=os.strerror(number)):
            retried(failing := Failing(lambda: 5, number, 1))
        assert failing.calls == 1


def test_samples_and_headers_are_read_again(shard, monkeypatch):
    monkeypatch.setattr(tars, "read_headers", Failing(tars.read_headers, errno.ESTALE, 2))
    monkeypatch.setattr(tars, "is_cut", Failing(tars.is_cut, errno.EIO, 2))
    monkeypatch.setattr(samples, "slice_of", Failing(samples.slice_of, errno.EIO, 2))
    assert count_samples(shard) == 1
    [entry] = index_samples(shard)
    assert read_sample(shard, entry).caption == "a cat"


def test_an_error_that_stays_is_told_as_what_it_is(shard, monkeypatch):
    [entry] = index_samples(shard)
    with monkeypatch.context() as patch:
        patch.setattr(tars, "read_headers", Failing(tars.read_headers, errno.EIO, 99))
        with pytest.raises(DataError, match=r"cannot read the shard .*0\.tar: Input/output error"):
            index_samples(shard)
        patch.setattr(samples, "slice_of", Failing(samples.slice_of, errno.EIO, 99))
        with pytest.raises(DataError, match="sample 0: Input/output error"):
            read_sample(shard, entry)
        patch.setattr(
            tars, "read_headers", Failing(tars.read_headers, errno.EINVAL, 99)
        )  # a seek to what a header says
        with pytest.raises(DataError, match="is truncated or not a tar file"):
            index_samples(shard)
    shard.unlink()
    with pytest.raises(DataError, match=r"cannot read the shard .*: No such file"):
        index_samples(shard)
