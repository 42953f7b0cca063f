"""Margins: how far apart each row's two largest values are, for the order-preserving (isotone) observer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.core import SettingError
from calibrant.sketches.arrays import Floats, as_floats, float_bits
from calibrant.sketches.canonical import Canonical, refuse_difference
from calibrant.sketches.cells import I32, I64, fold_cells
from calibrant.sketches.kernels import cpu as kernels
from calibrant.sketches.kernels.reference import HIGHEST, LOWEST, ordered
from calibrant.sketches.layout import positive_axis

LIMIT = 65536  # cells; beyond it the keys are coarsened
WAITING = 1 << 17  # rows that a tally holds before it folds them
EXACT, COARSEST = 23, -8  # mantissa_bits: 23 keeps all 32 ordered bits, -8 their sign alone


@dataclass(frozen=True, slots=True, eq=False)
class Margins(Canonical):
    """Counts of (largest, second largest) over the rows along `axis`, as ordered keys of the float32 bits.

    axis: of the rows, as asked for (negative counts from the end).
    mantissa_bits: the keys are ordered bits >> (23 - mantissa_bits). 23, exact, until there are more than LIMIT cells;
        then the largest that makes them fit. As coarsening a union is the union of what is coarsened, the result
        does not depend on the order.
    channels: 1 unless asked for per channel; 0 while no row was seen, and merging that is neutral.
    channel, top, second: int32 (cells,), sorted; counts: int64 (cells,) rows.
    tied, single: int64 (channels,); rows whose two largest are equal, and rows of one value: these are in no cell.
    Rows with NaN or Inf are not counted at all (`Extremes` has their number); -0.0 is 0.0.

    >>> m = Margins.of(np.float32([[1, 5, 4], [7, 7, 0]]), axis=-1)
    >>> m.values(m.top).tolist(), m.values(m.second).tolist(), m.counts.tolist(), m.tied.tolist()
    ([5.0], [4.0], [1], [1])
    """

    axis: int
    mantissa_bits: int
    channels: int
    channel: I32
    top: I32
    second: I32
    counts: I64
    tied: I64
    single: I64

    @classmethod
    def empty(cls, axis: int = -1) -> Margins:
        """The margins of no rows."""
        names, nothing = np.zeros(0, np.int32), np.zeros(0, np.int64)
        return cls(axis, EXACT, 0, names, names, names, nothing, nothing, nothing)

    @classmethod
    def of(cls, x: Any, axis: int = -1, channel_axis: int | None = None) -> Margins:
        """The margins of the rows of `x`, for each channel where an axis is given.

        DataError where x lacks an axis, SettingError where both axes are the same.
        """
        tally = MarginTally(axis)
        tally.add(as_floats(x), channel_axis)
        return tally.margins()

    def merge(self, other: Margins) -> Margins:
        """The margins of both. IncompatibleSketches where axes or numbers of channels differ."""
        return _joined([self, other])

    def values(self, keys: ArrayLike) -> NDArray[np.float64]:
        """The value in the middle of what `keys` (top or second) stand for; the value itself while exact."""
        shift = EXACT - self.mantissa_bits
        least = np.asarray(keys, np.int64) << shift
        ends = [np.clip(end, LOWEST, HIGHEST).astype(np.int32) for end in (least, least + (1 << shift) - 1)]
        low, high = (ordered(end).view(np.float32).astype(np.float64) for end in ends)
        return np.asarray((low + high) / 2)

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return int(self.counts.sum() + self.tied.sum() + self.single.sum())

    @property
    def _names(self) -> list[I32]:
        return [self.channel, self.top, self.second]

    def _fitted(self) -> Margins:
        """This, or where it has too many cells, this with the largest mantissa_bits that makes them fit."""
        if len(self.counts) <= LIMIT or self.mantissa_bits == COARSEST:
            return self
        fits, too_fine = COARSEST, self.mantissa_bits
        best = self._coarsened(fits)
        while too_fine - fits > 1:  # the number of cells never falls as mantissa_bits rise
            bits = (fits + too_fine) // 2
            tried = self._coarsened(bits)
            if len(tried.counts) <= LIMIT:
                fits, best = bits, tried
            else:
                too_fine = bits
        return best

    def _coarsened(self, mantissa_bits: int) -> Margins:
        shift = self.mantissa_bits - mantissa_bits
        if shift == 0:
            return self
        names = [self.channel, self.top >> shift, self.second >> shift]
        (channel, top, second), (counts,) = fold_cells(names, [self.counts])
        return Margins(self.axis, mantissa_bits, self.channels, channel, top, second, counts, self.tied, self.single)


class MarginTally:
    """Margins in the making: rows wait until there are enough of them to be worth sorting.

    Not safe for use by two threads at once.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._folded = Margins.empty(axis)
        self._waiting: list[Margins] = []

    def add(self, values: Floats, channel_axis: int | None = None) -> None:
        """Count the rows of `values`. DataError where it lacks an axis, SettingError where both are the same."""
        along = positive_axis(self._axis, values.shape, "isotone_axis")
        channel, channels = _channels_of_rows(values.shape, along, channel_axis)
        if values.size == 0:
            return
        top, second, finite = kernels.top_two(_rows(values, along))
        alone = values.shape[along] == 1
        equal = finite & (top == second)
        kept = finite & ~equal
        equals, none = np.bincount(channel[equal], minlength=channels), np.zeros(channels, np.int64)
        tied, single = (none, equals) if alone else (equals, none)
        names = channel[kept], top[kept], second[kept]
        counts = np.ones(len(names[0]), np.int64)
        self._waiting.append(Margins(self._axis, EXACT, channels, *names, counts, tied, single))
        if sum(len(rows.counts) for rows in self._waiting) > WAITING or len(self._waiting) > WAITING >> 8:
            self._fold()

    def margins(self) -> Margins:
        """The margins of all rows so far."""
        self._fold()
        return self._folded

    def _fold(self) -> None:
        if self._waiting:
            self._folded = _joined([self._folded, *self._waiting])
            self._waiting = []


def _joined(parts: list[Margins]) -> Margins:
    """The margins of all parts, of which those of one row may be unsorted; the first is the one that refuses others."""
    first = parts[0]
    for part in parts:
        refuse_difference("Margins", {"axis": (first.axis, part.axis)})
    parts = [part for part in parts if part.channels]
    if not parts:
        return first
    for part in parts:
        refuse_difference("Margins", {"channels": (parts[0].channels, part.channels)})
    bits = min(part.mantissa_bits for part in parts)
    names = [[column >> (part.mantissa_bits - bits) for column in (part.top, part.second)] for part in parts]
    channel = np.concatenate([part.channel for part in parts])
    top, second = (np.concatenate(columns) for columns in zip(*names, strict=True))
    counts = np.concatenate([part.counts for part in parts])
    (channel, top, second), (counts,) = fold_cells([channel, top, second], [counts])
    tied, single = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("tied", "single"))
    return Margins(first.axis, bits, parts[0].channels, channel, top, second, counts, tied, single)._fitted()


def _rows(values: Floats, along: int) -> I32:
    """Float32 bits (outer, length, inner), the rows along the middle."""
    shape = values.shape
    return float_bits(values).reshape(prod(shape[:along]), shape[along], prod(shape[along + 1 :]))


def _channels_of_rows(shape: tuple[int, ...], along: int, channel_axis: int | None) -> tuple[I32, int]:
    """The channel of each row in the order (outer, inner), and how many channels there are."""
    rest = shape[:along] + shape[along + 1 :]
    if channel_axis is None:
        return np.zeros(prod(rest), np.int32), 1
    axis = positive_axis(channel_axis, shape, "channel_axis")
    if axis == along:
        raise SettingError(f"isotone_axis and channel_axis are both axis {axis}: a row would cross all channels")
    left = axis - (axis > along)
    index = np.arange(shape[axis], dtype=np.int32).reshape([-1 if i == left else 1 for i in range(len(rest))])
    return np.ascontiguousarray(np.broadcast_to(index, rest)).reshape(-1), shape[axis]
