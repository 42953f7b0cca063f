"""Statistics of the values of a batch, on whichever thread computed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from threading import Lock

from calibrant.core import CalibrantError
from calibrant.engines.taps import Taken
from calibrant.sketches import Collector, SketchSpec, TensorSketch


class Statistics:
    """Feeds values to their collectors. Several threads may do so at once: they take turns at a value, not at all of
    them."""

    def __init__(self, wanted: Mapping[str, SketchSpec]) -> None:
        self._collectors = {name: Collector(spec) for name, spec in wanted.items()}
        self._locks = {name: Lock() for name in wanted}

    def use_threads(self, threads: int) -> None:
        """Count a large value on so many threads."""
        for collector in self._collectors.values():
            collector.threads = threads

    def add(self, batch: Iterable[Taken]) -> None:
        """Count the values that somebody asked for. The first error, which names the value, ends it."""
        waiting = deque(taken for taken in batch if taken.name in self._collectors)
        refused = 0  # in a row
        while waiting:
            taken = waiting.popleft()
            lock = self._locks[taken.name]
            if not lock.acquire(blocking=refused > len(waiting)):  # all that are left are in other hands: queue up
                waiting.append(taken)
                refused += 1
                continue
            refused = 0
            try:
                self._count(taken)
            except BaseException as error:
                raise named(error, taken.name) from error
            finally:
                lock.release()

    def sketches(self) -> dict[str, TensorSketch]:
        """What was collected of every value."""
        return {name: collector.sketch() for name, collector in self._collectors.items()}

    def _count(self, taken: Taken) -> None:
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
