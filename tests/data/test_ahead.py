"""Reading ahead: the same batches in the same order, before they are asked for, and errors in their place."""

import threading

import pytest

from seedtok.core.errors import DataError
from seedtok.data.ahead import AHEAD, read_ahead


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7])
def test_batches_are_those_of_the_stream(count):
    assert list(read_ahead(iter(range(count)), 3)) == [list(range(i, min(i + 3, count))) for i in range(0, count, 3)]


def test_it_reads_while_the_first_batch_is_computed_on():
    ahead = threading.Event()

    def stream():
        for number in range(100):
            if number == 4 * AHEAD:
                ahead.set()
            yield number

    batches = read_ahead(stream(), 4)
    assert next(batches) == [0, 1, 2, 3]
    assert ahead.wait(30)
    batches.close()


def test_an_error_comes_after_the_batches_before_it():
    def stream():
        yield from range(4)
        raise DataError("a broken shard")

    batches = read_ahead(stream(), 2)
    assert [next(batches), next(batches)] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match="a broken shard"):
        next(batches)
