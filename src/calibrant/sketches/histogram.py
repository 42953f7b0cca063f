"""Histogram: how many values fell into each bin, and where in the bin they lie on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.sketches.arrays import as_floats
from calibrant.sketches.bins import LogBins
from calibrant.sketches.canonical import Canonical, refuse_difference
from calibrant.sketches.cells import I32, I64, Cells, fold_cells
from calibrant.sketches.layout import Layout
from calibrant.sketches.tally import Tally, joined


@dataclass(frozen=True, slots=True, eq=False)
class Histogram(Canonical):
    """Counts of finite values by `LogBins` key: sparse, sorted by (channel, key), no cell empty.

    channels: 1 for a whole tensor; 0 while nothing was seen, and merging that is neutral.
    channel, keys: int32 (cells,); the keys are signed, so within a channel they ascend with the value.
    counts: int64 (cells,); positions: int64 (cells,), the sum of `LogBins.sub` over the cell's values: so
        lower + (positions / counts + 1/2) / 256 of the bin's width, in the direction of magnitude, is the mean place
        of its values within 1/512 of that width. NaN and Inf are not counted; -0.0 is 0.0.

    >>> h = Histogram.of(np.float32([1.5, -2.0, 1.5]), LogBins(8))
    >>> h.keys.tolist(), h.counts.tolist()
    ([-32769, 32640], [1, 2])
    """

    bins: LogBins
    channels: int
    channel: I32
    keys: I32
    counts: I64
    positions: I64

    @classmethod
    def empty(cls, bins: LogBins | None = None) -> Histogram:
        """The histogram of nothing."""
        names, nothing = np.zeros(0, np.int32), np.zeros(0, np.int64)
        return cls(bins or LogBins(), 0, names, names, nothing, nothing)

    @classmethod
    def of(cls, x: Any, bins: LogBins | None = None, channel_axis: int | None = None) -> Histogram:
        """The histogram of `x` (see `Collector.add`), one for each channel where an axis is given."""
        bins, values = bins or LogBins(), as_floats(x)
        layout = Layout.of(values.shape, channel_axis)
        if values.size == 0:
            return cls.empty(bins)
        if channel_axis is None:
            tally = Tally(1, bins.mantissa_bits, None)
        else:
            tally = Tally(layout.channels, None, bins.mantissa_bits)
        tally.add(values.reshape(-1), 0, layout)
        cells = tally.histogram() if channel_axis is None else tally.channel_histogram()
        return cls.from_cells(bins, layout.channels, cells)

    @classmethod
    def from_cells(cls, bins: LogBins, channels: int, cells: Cells) -> Histogram:
        """A histogram of folded cells: (channel, keys), (counts, positions)."""
        (channel, keys), (counts, positions) = cells
        return cls(bins, channels, channel, keys, counts, positions)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both. IncompatibleSketches where bins or numbers of channels differ."""
        refuse_difference("Histograms", {"mantissa_bits": (self.bins.mantissa_bits, other.bins.mantissa_bits)})
        if self.channels == 0 or other.channels == 0:
            return self if other.channels == 0 else other
        refuse_difference("Histograms", {"channels": (self.channels, other.channels)})
        return self.from_cells(self.bins, self.channels, joined(self._cells, other._cells))

    @property
    def size(self) -> int:
        """How many values it holds."""
        return int(self.counts.sum())

    @property
    def total(self) -> Histogram:
        """The histogram of the whole tensor: channels folded into one."""
        if self.channels <= 1:
            return self
        cells = fold_cells([np.zeros_like(self.channel), self.keys], [self.counts, self.positions])
        return self.from_cells(self.bins, 1, cells)

    def channel_of(self, c: int) -> Histogram:
        """The histogram of channel `c` alone. IndexError where there is none such."""
        if not 0 <= c < self.channels:
            raise IndexError(f"channel {c} of a Histogram with {self.channels} channels")
        first, last = np.searchsorted(self.channel, [c, c + 1])
        part = slice(first, last)
        names = [np.zeros(last - first, np.int32), self.keys[part]]
        return self.from_cells(self.bins, 1, (names, [self.counts[part], self.positions[part]]))

    @property
    def _cells(self) -> Cells:
        return [self.channel, self.keys], [self.counts, self.positions]
