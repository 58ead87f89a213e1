"""Batches that a thread reads while the ones before are computed on."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
AHEAD = 2  # batches


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
