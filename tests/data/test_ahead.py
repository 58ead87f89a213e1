"""Reading ahead: the same batches in the same order, before they are asked for, and errors in their place."""

import threading
import time

import pytest

from seedtok.core.errors import DataError
from seedtok.data.ahead import AHEAD, EACH, in_order, read_ahead


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


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_results_come_in_the_order_of_their_values(threads, count):
    def late(number: int) -> int:
        time.sleep(0.002 * (number % 3 == 0))
        return number * number

    assert list(in_order(late, iter(range(count)), threads)) == [number * number for number in range(count)]


def test_several_threads_compute_at_the_same_time_and_no_further_than_they_may():
    begun, both = list[int](), threading.Barrier(2, timeout=30)

    def meet(number: int) -> int:
        begun.append(number)
        if number < 2:
            both.wait()  # passed by two threads together alone
        return number

    results = in_order(meet, iter(range(1000)), 2)
    assert next(results) == 0
    results.close()
    assert len(begun) <= 2 * EACH + 1


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_a_value_is_raised_in_its_place(threads):
    def fail_at_five(number: int) -> int:
        if number == 5:
            raise DataError("a broken shard")
        return number

    results = in_order(fail_at_five, iter(range(100)), threads)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(DataError, match="a broken shard"):
        next(results)
