"""Statistics of one batch on a few threads, while the next batch is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from calibrant.core import CalibrantError
from calibrant.engines.taps import Taken
from calibrant.sketches import Collector, TensorSketch


class Statistics:
    """Feeds values to their collectors, on `threads` threads, largest value first; used in a `with` statement.

    One batch at a time: `start` it, then `wait` for it, which raises what went wrong in it. A batch holds a value at
    most once, so no collector is ever touched by two threads. Leaving the `with` ends the threads in any case.
    """

    def __init__(self, collectors: Mapping[str, Collector], threads: int) -> None:
        self._collectors = collectors
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="calibrant-statistics")
        self._batch: list[Taken] = []
        self._queue: deque[Taken] = deque()
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.clear()
        self._batch = []
        self._pool.shutdown(wait=True, cancel_futures=True)

    def takes(self, name: str) -> bool:
        """Whether there is a collector for that value."""
        return name in self._collectors

    def start(self, batch: Iterable[Taken]) -> None:
        """Begin with a batch; the one before must have been waited for."""
        # Held as a whole until `wait`: let go one by one, it would depend on timing how much memory is in use at most.
        self._batch = sorted(batch, key=lambda taken: -taken.array.nbytes)
        self._queue.extend(self._batch)
        threads = min(self._threads, len(self._queue))
        self._running = [self._pool.submit(self._work) for _ in range(threads)]

    def wait(self) -> None:
        """Until the batch is done and let go. Raises the first error of its values, which names the value."""
        wait(self._running)
        for done in self._running:
            done.result()
        self._running, self._batch = [], []

    def sketches(self) -> dict[str, TensorSketch]:
        """What was collected of every value, all batches waited for."""
        self.wait()
        found = self._pool.map(Collector.sketch, self._collectors.values())
        return dict(zip(self._collectors, found, strict=True))

    def _work(self) -> None:
        while True:
            try:
                taken = self._queue.popleft()
            except IndexError:
                return
            try:
                self._add(taken)
            except BaseException as error:
                self._queue.clear()  # nobody will ask for the rest
                raise named(error, taken.name) from error

    def _add(self, taken: Taken) -> None:
        collector = self._collectors[taken.name]
        if taken.channels is None:
            collector.add(taken.array)
        else:
            collector.add_blocked(taken.array, taken.channels)


def named(error: BaseException, value: str) -> BaseException:
    """The error, saying at which value it happened: ours in its message, any other in a note."""
    if isinstance(error, CalibrantError):
        return error if f"'{value}'" in str(error) else type(error)(f"value '{value}': {error}")
    error.add_note(f"while the statistics of value '{value}' were taken")
    return error
