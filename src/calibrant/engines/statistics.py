"""Statistics of the values of a batch, on whichever thread computed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

from calibrant.core import CalibrantError
from calibrant.engines.taps import Batch, Plan, Taken
from calibrant.sketches import Collector, Halves, SketchSpec
from calibrant.sketches.layout import Layout
from calibrant.sketches.together import Place, Places, Together


class Statistics:
    """Feeds values to their collectors. Several threads may do so at once, but for `sketches`.

    Values that come in the same memory again are counted in one call, into tallies that no other thread uses
    meanwhile. For the others threads take turns at a value, not at all of them.
    """

    def __init__(self, wanted: Mapping[str, SketchSpec]) -> None:
        self._halves = [{name: _Counting(Collector(spec)) for name, spec in wanted.items()} for _ in range(2)]
        self._free: list[list[Together]] = [[], []]  # of each half: those that no thread uses now

    def use_threads(self, threads: int) -> None:
        """Count a large value on so many threads."""
        for half in self._halves:
            for counting in half.values():
                counting.collector.threads = threads

    def add(self, batch: Batch, half: int) -> None:
        """Count the values that somebody asked for, in that half. The first error ends it, and names its value."""
        if not batch.comes_again:
            self._add_each(batch.taken, half)
            return
        if batch.plan is None:
            batch.plan = self._plan(batch.taken)
        self._add_together(batch.plan.places, half)
        self._add_each(batch.plan.others, half)

    def _plan(self, batch: Sequence[Taken]) -> Plan:
        """How these are counted, in whichever half: so either one is asked, and knows their channels from now on."""
        places, others = [], []
        for taken in batch:
            if taken.name not in self._halves[0]:
                continue
            try:
                layout, _ = (half[taken.name].layout_to_lend(taken) for half in self._halves)
            except CalibrantError as error:
                raise named(error, taken.name) from error
            if layout is None:
                others.append(taken)
            else:
                places.append(Place(taken.name, taken.array, layout))
        return Plan(Places(places[::-1]), others)  # the values computed last are still in the cache

    def _add_together(self, places: Places, half: int) -> None:
        free = self._free[half]
        try:
            together = free.pop()
        except IndexError:
            together = Together({name: counting.collector for name, counting in self._halves[half].items()})
        together.count(places)
        free.append(together)

    def _add_each(self, batch: Iterable[Taken], half: int) -> None:
        countings = self._halves[half]
        waiting = deque(taken for taken in batch if taken.name in countings)
        waiting.reverse()  # as above
        refused = 0  # in a row
        while waiting:
            taken = waiting.popleft()
            counting = countings[taken.name]
            all_taken = refused > len(waiting)  # by other threads: then queue up
            if not counting.lock.acquire(blocking=all_taken):
                waiting.append(taken)
                refused += 1
                continue
            refused = 0
            try:
                counting.add(taken)
            except BaseException as error:
                raise named(error, taken.name) from error
            finally:
                counting.lock.release()

    def sketches(self, threads: int = 1) -> Halves:
        """What was collected of every value. threads: that empty the tables."""
        with ThreadPoolExecutor(threads) as pool:
            even, odd = (
                dict(zip(half, pool.map(lambda counting: counting.collector.sketch(), half.values()), strict=True))
                for half in self._halves
            )
            return Halves(even, odd)


@dataclass(slots=True)
class _Counting:
    """A value's collector in one half, and whose turn it is."""

    collector: Collector
    lock: Lock = field(default_factory=Lock)

    def add(self, taken: Taken) -> None:
        if taken.channels is None:
            self.collector.add(taken.array)
        else:
            self.collector.add_blocked(taken.array, taken.channels)

    def layout_to_lend(self, taken: Taken) -> Layout | None:
        with self.lock:
            return self.collector.layout_to_lend(taken.array, taken.channels)


def named(error: BaseException, value: str) -> BaseException:
    """The error, saying at which value it happened: ours in its message, any other in a note."""
    if isinstance(error, CalibrantError):
        return error if f"'{value}'" in str(error) else type(error)(f"value '{value}': {error}")
    error.add_note(f"while the statistics of value '{value}' were taken")
    return error
