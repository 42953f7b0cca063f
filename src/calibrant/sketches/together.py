"""Several tensors counted in one call of the kernel: to call it for each takes longer than to count a small one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrant.sketches.collector import Collector
from calibrant.sketches.kernels import cpu as kernels
from calibrant.sketches.layout import Layout
from calibrant.sketches.tally import FLUSH_LIMIT, Tally

MOST_CALLS = 64  # that room is made for at a time: to look at every table takes longer than to count a small tensor


class Place(NamedTuple):
    """Memory that a tensor lies in, what it is called, and its layout: see `Collector.layout_to_lend`."""

    name: str
    array: NDArray[Any]
    layout: Layout


class Places:
    """Of several tensors, whatever numbers they hold at the time; the arrays are kept."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.arrays = [place.array for place in places]
        rows = [[place.array.ctypes.data, place.array.size, *place.layout] for place in places]
        self.addresses = np.array(rows, np.int64).reshape(-1, 6)
        self.kinds = [(place.name, place.array.size, place.layout) for place in places]


class Together:
    """Counts tensors of several collectors into tallies that these have lent. One thread at a time may use it."""

    def __init__(self, collectors: Mapping[str, Collector]) -> None:
        self._collectors = collectors
        self._tallies: dict[tuple[str, int], Tally] = {}  # by name and channels
        self._kinds: list[tuple[str, int, Layout]] | None = None
        self._used: list[Tally] = []  # for tensors of these kinds, and where they lie
        self._addresses = np.zeros((0, 10), np.int64)
        self._calls = 0  # that there is room for
        self._next = 1  # that room will be made for: ever more while the kinds stay, as what is not used is lost

    def count(self, places: Places) -> None:
        """Count what the places hold now."""
        if places.kinds != self._kinds:
            self._used = [self._tally(name, layout.channels) for name, _, layout in places.kinds]
            self._addresses = np.array([tally.addresses for tally in self._used], np.int64).reshape(-1, 10)
            self._kinds, self._calls, self._next = places.kinds, 0, 1
        if self._calls == 0:
            self._calls = self._make_room(places.kinds)
            self._next = min(2 * self._next, MOST_CALLS)
        self._calls -= 1
        kernels.count_all(places.addresses, self._addresses)

    def _make_room(self, kinds: Sequence[tuple[str, int, Layout]]) -> int:
        """For as many calls as it returns."""
        calls = min(FLUSH_LIMIT // max((size for _, size, _ in kinds), default=1), self._next)
        for tally, (_, size, layout) in zip(self._used, kinds, strict=True):
            tally.make_room(calls * size, calls * layout.most_of_one_channel(0, size))
        return calls

    def _tally(self, name: str, channels: int) -> Tally:
        if (name, channels) not in self._tallies:
            self._tallies[name, channels] = self._collectors[name].lend(channels)
        return self._tallies[name, channels]
