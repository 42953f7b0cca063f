"""The loop: samples in, each run on a core of its own, its values to whoever asked for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

from numpy.typing import NDArray

from calibrant.core import ModelError
from calibrant.engines.executor import RawCallback
from calibrant.engines.halves import half_of
from calibrant.engines.masking import Masking
from calibrant.engines.samples import Feed
from calibrant.engines.session import return_memory
from calibrant.engines.splitting import Splitter
from calibrant.engines.statistics import Statistics, named
from calibrant.engines.taps import Batch, Taken, TapMaker, Taps


@dataclass(frozen=True, slots=True)
class _Running:
    """A part of a sample that is being computed. values: those for the functions of `raw`."""

    sample: int
    is_last: bool
    part: Feed
    nbytes: int
    values: Future[tuple[int, list[tuple[str, NDArray[Any]]]]]


class Pump:
    """Runs samples side by side, one thread each, and the statistics of a sample on the thread that computed it.

    Threads that share a sample wait for one another at every layer; threads that share nothing never do. Only where
    the memory budget does not allow a sample for every thread, several threads share one.

    May run several times; each time counts into statistics of its own.
    maker: of the taps for all values that are computed; None where only inputs are asked for. names: all of them.
    threads: in total. memory_budget: bytes that the values of all samples that are being computed may take.
    masking: what counts of a padded batch; None: all of it.
    """

    def __init__(
        self,
        maker: TapMaker | None,
        splitter: Splitter,
        names: Sequence[str],
        raw: Mapping[str, RawCallback],
        threads: int,
        memory_budget: int,
        masking: Masking | None = None,
    ) -> None:
        self._maker = maker
        self._taps: Taps | None = None
        self._splitter = splitter
        self._names = names
        self._raw = raw
        self._masking = masking
        self.threads = threads
        self._memory_budget = memory_budget
        self._workers = threads
        self._each = 1  # threads of one sample
        self._running: deque[_Running] = deque()

    def run(
        self,
        samples: Iterable[Feed],
        statistics: Statistics,
        on_step: Callable[[int], None] | None,
        note: Callable[[str], None],
    ) -> None:
        """Run every sample, and count its values into `statistics`.

        on_step: see `OnnxruntimeExecutor.collect`; note: told what is done otherwise than asked.
        An array of a sample may be overwritten as soon as the next sample is asked for.
        """
        samples = iter(samples)
        first = next(samples, None)
        if first is None:
            return
        self._prepare(first, note)
        if self._masking is not None:
            self._masking.prepare(first)
        statistics.use_threads(self._each)
        self._statistics = statistics
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="calibrant-sample")
        try:
            for number, feed in enumerate(chain([first], samples), 1):
                self._start(number, {name: array.copy() for name, array in feed.items()}, pool, on_step)
            while self._running:
                self._finish(on_step)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._running.clear()

    def _prepare(self, feed: Feed, note: Callable[[str], None]) -> None:
        """Choose the taps, and how many samples run at once, by the first row of a first sample."""
        if self._maker is None:
            return
        row = self._splitter.first_row(feed)
        try:
            try:
                self._taps = self._maker.choose(row, self._share, note)
            except ModelError:  # the batch's size is built into the model, though its inputs leave it free
                self._splitter.keep_whole()
                self._taps = self._maker.choose(feed, self._share, note)
        except ModelError as error:
            raise ModelError(f"sample 1: {error}") from error
        self._maker = None  # and with it the session that the chosen taps do not use, and its memory
        return_memory()

    def _share(self, feed: Feed, nbytes: int) -> int:
        """The threads of one sample, where the values of the smallest part that can be run take `nbytes`."""
        self._workers = max(1, min(self.threads, self._memory_budget // max(nbytes, 1)))
        self._splitter.limit = self._memory_budget // self._workers
        self._splitter.record(feed, nbytes)
        self._each = self.threads // self._workers
        return self._each

    def _start(self, number: int, feed: Feed, pool: ThreadPoolExecutor, on_step: Callable[[int], None] | None) -> None:
        if self._masking is not None:
            self._masking.kept(feed, number)  # refused here, where its number is known
        parts, half = list(self._splitter.parts(feed)), half_of(feed)
        for place, part in enumerate(parts, 1):
            nbytes = self._splitter.bytes_of(part)
            while self._running and not self._has_room(nbytes):
                self._finish(on_step)
            values = pool.submit(self._work, part, half)
            self._running.append(_Running(number, place == len(parts), part, nbytes, values))

    def _has_room(self, nbytes: int) -> bool:
        """One part may wait for a thread; those that have one must fit the budget, each taken as the largest."""
        largest = max(nbytes, *(other.nbytes for other in self._running))
        at_once = min(len(self._running) + 1, self._workers)
        return len(self._running) <= self._workers and largest * at_once <= self._memory_budget

    def _work(self, part: Feed, half: int) -> tuple[int, list[tuple[str, NDArray[Any]]]]:
        """Compute a part and count its values; their bytes, and copies of those that are wanted raw."""
        batch = self._taps.run(part) if self._taps is not None else Batch([])
        batches = [batch, Batch([Taken(name, part[name]) for name in self._names if name in part])]
        if self._masking is not None:
            values = {taken.name: taken.array for one in batches for taken in one.taken}
            cut = self._masking.parts(values, self._masking.kept(part))
            batches = [Batch([Taken(name, array) for name, array in values.items()]) for values in cut]
        for one in batches:
            self._statistics.add(one, half)
        raw = [taken for one in batches for taken in one.taken if taken.name in self._raw]
        return batch.nbytes, [(taken.name, taken.array.copy()) for taken in raw]

    def _finish(self, on_step: Callable[[int], None] | None) -> None:
        """Wait for the oldest part, and pass on what it gave."""
        oldest = self._running.popleft()
        try:
            nbytes, values = oldest.values.result()
        except ModelError as error:
            raise ModelError(f"sample {oldest.sample}: {error}") from error
        self._splitter.record(oldest.part, nbytes)
        for name, value in values:
            try:
                self._raw[name](value)
            except Exception as error:
                raise named(error, name) from error
        if oldest.is_last and on_step is not None:
            on_step(oldest.sample)
