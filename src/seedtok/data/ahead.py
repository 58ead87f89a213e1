"""Reading ahead by threads, while the program computes on what has been read."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
AHEAD = 2  # batches
EACH = 2  # values for each thread that are being computed, or whose results wait to be asked for


def in_order(function: Callable[[S], T], values: Iterable[S], threads: int) -> Iterator[T]:
    """The results of a function in the order of its values, computed by so many threads before they are asked for.

    An error of a value is raised in its place; no value after it is computed but those that had begun. With one thread
    nothing is computed ahead: the caller's own thread computes each when it is asked for.
    """
    if threads == 1:
        yield from map(function, values)
        return
    following = iter(values)
    with ThreadPoolExecutor(threads, "read") as pool:
        coming = deque(pool.submit(function, value) for value in islice(following, EACH * threads))
        try:
            while coming:
                result = coming.popleft().result()
                coming.extend(pool.submit(function, value) for value in islice(following, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def read_ahead(stream: Iterator[T], batch_size: int) -> Iterator[list[T]]:
    """Batches of a stream, the last one perhaps smaller; one thread reads `AHEAD` of them before they are asked for.

    What the stream raises is raised here, after the batches before it.
    """
    pool = ThreadPoolExecutor(1, "read-ahead")

    def read() -> Future[list[T]]:
        return pool.submit(lambda: list(islice(stream, batch_size)))

    try:
        coming = deque(read() for _ in range(AHEAD))
        while batch := coming.popleft().result():
            coming.append(read())
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
