"""Reading ahead: the next items are read in threads while the present one is used."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
# Decoders release the GIL, so threads do; a quarter of the processors leaves the model its own.
THREADS = max(1, min(4, (os.cpu_count() or 1) // 4))
WINDOW = THREADS + 2  # items under way; each is in memory


def read_ahead(read: Callable[[int], T], indices: Iterable[int]) -> Iterator[tuple[int, Future[T]]]:
    """Each index, in order, with the future of `read(index)`; a few are read ahead, by a few threads.

    An error of `read` comes out of its own future, never of another's.

    >>> [(i, future.result()) for i, future in read_ahead(lambda i: i * i, [3, 1, 2])]
    [(3, 9), (1, 1), (2, 4)]
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="calibrant-data")
    waiting: deque[tuple[int, Future[T]]] = deque()
    try:
        for index in indices:
            waiting.append((index, pool.submit(read, index)))
            if len(waiting) > WINDOW:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever stops early does not wait for what is under way
