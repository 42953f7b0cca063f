"""Tally: the mutable state that the kernels count into, and what the sketches are made from."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from calibrant.sketches.arrays import Floats, float_bits
from calibrant.sketches.cells import Cells
from calibrant.sketches.kernels import cpu as kernels
from calibrant.sketches.kernels.reference import NAN, NEG_INF, NONE_HI, NONE_LO, POS_INF, U64, reach
from calibrant.sketches.layout import Layout

FLUSH_LIMIT = 1 << 23  # elements after which a packed cell's positions (255 each) could reach the next count
WIDEN = 1 << 16  # elements of float16 that are widened at a time: as float32 they stay in the cache


class Tally:
    """Counts of one tensor: its extremes per channel, and if asked for its histogram, and a histogram per channel.

    channels: how many; mantissa_bits, channel_mantissa_bits: of the histograms, None where not wanted.
    size: how many elements were counted. ends, hits, totals: see `kernels.reference.count`.
    Not safe for use by two threads at once; use one Tally per thread and merge what they give.
    """

    def __init__(self, channels: int, mantissa_bits: int | None, channel_mantissa_bits: int | None) -> None:
        self.channels = channels
        self._size = np.zeros(1, np.int64)
        self.ends = np.repeat(np.array([[NONE_LO], [NONE_HI]], np.int32), channels, axis=1)
        self.hits = np.zeros((2, channels), np.int64)
        self.totals = np.zeros(4, np.int64)
        self._histogram = _Table(1, mantissa_bits)
        self._channel_histogram = _Table(channels, channel_mantissa_bits)
        tables = *self._histogram.arguments, *self._channel_histogram.arguments
        self._state: tuple[Any, ...] = (self.ends, self.hits, self.totals, *tables)  # that the kernel changes

    def add(self, values: Floats, base: int, layout: Layout) -> None:
        """Count `values`, a flat stretch of a tensor's memory that begins at its element `base` (see `Layout`)."""
        step = FLUSH_LIMIT if values.dtype == np.float32 else min(WIDEN, FLUSH_LIMIT)
        step = max(step - step % layout.lanes, layout.lanes)
        for start in range(0, values.size, step):
            part = values[start : start + step]
            self.make_room(part.size, layout.most_of_one_channel(base + start, part.size))
            self._size += kernels.count(float_bits(part), base + start, *layout, *self._state)

    def make_room(self, elements: int, of_one_channel: int) -> None:
        """Be ready for so many more elements, at most FLUSH_LIMIT, of which at most so many are in the same channel.

        Room that was made before and is not used by now is lost. The histograms take none away.
        """
        self._histogram.make_room(elements, self)
        if self._channel_histogram.is_wanted:
            self._channel_histogram.make_room(of_one_channel, self)

    @property
    def size(self) -> int:
        return int(self._size[0])

    @property
    def addresses(self) -> list[int]:
        """Where all this lies: a row of `tallies` in `kernels.count_all`."""
        state = [array.ctypes.data for array in (self._size, self.ends, self.hits, self.totals)]
        return state + self._histogram.address + self._channel_histogram.address

    def histogram(self) -> Cells:
        """Cells (channel, signed key), (count, position sum) of the whole tensor; channel is 0 throughout."""
        return self._histogram.emptied(self)

    def channel_histogram(self) -> Cells:
        """The same for each channel."""
        return self._channel_histogram.emptied(self)

    @property
    def finite(self) -> int:
        """How many elements were counted that are neither NaN nor Inf."""
        return self.size - int(self.totals[[NAN, POS_INF, NEG_INF]].sum())


class _Table:
    """Dense packed cells for the kernel, emptied now and then into sparse ones; nothing where mantissa_bits is None.

    groups: of cells, one for each channel or one for all.
    """

    def __init__(self, groups: int, mantissa_bits: int | None) -> None:
        self.is_wanted = mantissa_bits is not None
        self._mantissa_bits = mantissa_bits or 0
        self._packed = lazy_zeros(1 << (9 + self._mantissa_bits), groups if self.is_wanted else 0)
        self.arguments = (self._packed, self._mantissa_bits)  # of the kernel
        self.address = [self._packed.ctypes.data, self._packed.shape[1], self._mantissa_bits]
        none, nothing = np.zeros(0, np.int32), np.zeros(0, np.int64)
        self._cells: Cells = [none, none], [nothing, nothing]
        self._pending = 0  # elements that the fullest cell may hold, as far as its limits go: see `kernels.load`

    def make_room(self, elements: int, tally: Tally) -> None:
        """Be ready for so many more elements in one group. tally: see `emptied`."""
        if self._pending + elements > FLUSH_LIMIT:  # elements spread over many cells: seldom is one nearly full
            self._pending = kernels.load(self._packed, *reach(tally.ends, self._mantissa_bits))
        if self._pending + elements > FLUSH_LIMIT:
            self.emptied(tally)
            self._pending = 0
        self._pending += elements

    def emptied(self, tally: Tally) -> Cells:
        """All cells so far; the table is left empty, with the room that was made for it. tally: of all that was counted
        here, which says where and how long to look."""
        if self.is_wanted:
            here = tally.finite - int(self._cells[1][0].sum())
            found = kernels.harvest(self._packed, *reach(tally.ends, self._mantissa_bits), here)
            self._cells = joined(self._cells, (list(found[:2]), list(found[2:])))
        return self._cells


def table_bytes(groups: int, mantissa_bits: int) -> int:
    """Of a table with so many groups, if all of it were written."""
    return groups * 8 << (9 + mantissa_bits)


def joined(one: Cells, other: Cells) -> Cells:
    """The folded cells of both."""
    if not len(one[1][0]) or not len(other[1][0]):
        return one if len(one[1][0]) else other
    columns = [np.require(column, requirements=["C", "W"]) for column in (*one[0], *one[1], *other[0], *other[1])]
    channel, keys, counts, positions = kernels.join(*columns)
    return [channel, keys], [counts, positions]


def lazy_zeros(*shape: int) -> U64:
    """Zeros that take memory only where they are written.

    From the system's mapping, not from numpy's allocator, which may hand out recycled memory and then must clear it,
    or ask for huge pages; either makes the whole table resident, and a model has hundreds of tables.
    """
    size = int(np.prod(shape)) * 8
    if size == 0:
        return np.zeros(shape, np.uint64)
    private = getattr(mmap, "MAP_PRIVATE", None)  # not on Windows, where an anonymous mapping needs no flags
    memory = mmap.mmap(-1, size) if private is None else mmap.mmap(-1, size, private | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint64).reshape(shape)
