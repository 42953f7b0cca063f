"""Tally: the mutable state that the kernels count into, and what the sketches are made from."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from calibrant.core import DataError
from calibrant.sketches.arrays import Floats
from calibrant.sketches.bins import split_index
from calibrant.sketches.cells import I32, I64, join_cells
from calibrant.sketches.kernels import reference as kernels
from calibrant.sketches.kernels.reference import NONE_HI, NONE_LO, U64
from calibrant.sketches.layout import Layout

FLUSH_LIMIT = 1 << 24  # elements that a packed cell can take before its 32 bits of positions (255 each) could overflow
WIDEN = 1 << 16  # elements of float16 that are widened at a time: as float32 they stay in the cache

Cells = tuple[list[I32], list[I64]]


class Tally:
    """Counts of one tensor: its extremes per channel, and if asked for its histogram, and a histogram per channel.

    channels: how many; mantissa_bits, channel_mantissa_bits: of the histograms, None where not wanted.
    Not safe for use by two threads at once; use one Tally per thread and merge what they give.
    """

    def __init__(self, channels: int, mantissa_bits: int | None, channel_mantissa_bits: int | None) -> None:
        self.channels = channels
        self.size = 0
        self.lo = np.full(channels, NONE_LO, np.int32)
        self.hi = np.full(channels, NONE_HI, np.int32)
        self.n_lo = np.zeros(channels, np.int64)
        self.n_hi = np.zeros(channels, np.int64)
        self.totals = np.zeros(4, np.int64)
        self._bits = 0 if mantissa_bits is None else mantissa_bits
        self._channel_bits = 0 if channel_mantissa_bits is None else channel_mantissa_bits
        self._tables = lazy_tables(0 if mantissa_bits is None else 1, self._bits)
        self._channel_tables = lazy_tables(0 if channel_mantissa_bits is None else channels, self._channel_bits)
        self._cells: Cells = _no_cells()
        self._channel_cells: Cells = _no_cells()
        self._pending = 0

    def add(self, values: Floats, base: int, layout: Layout) -> None:
        """Count `values`, a flat stretch of a tensor's memory that begins at its element `base` (see `Layout`)."""
        if layout.channels != self.channels:
            raise DataError(f"expected {self.channels} channels as before, got {layout.channels}")
        step = FLUSH_LIMIT if values.dtype == np.float32 else min(WIDEN, FLUSH_LIMIT)
        step = max(step - step % layout.lanes, layout.lanes)
        for start in range(0, values.size, step):
            part = values[start : start + step]
            if self._pending + part.size > FLUSH_LIMIT:
                self._flush()
            self._pending += part.size
            self.size += part.size
            bits = np.asarray(part, np.float32).view(np.int32)
            kernels.count(
                bits,
                base + start,
                *layout,
                self.lo,
                self.hi,
                self.n_lo,
                self.n_hi,
                self.totals,
                self._tables,
                self._bits,
                self._channel_tables,
                self._channel_bits,
            )

    def histogram(self) -> Cells:
        """Cells (channel, signed key), (count, position sum) of the whole tensor; channel is 0 throughout."""
        self._flush()
        return self._cells

    def channel_histogram(self) -> Cells:
        """The same for each channel."""
        self._flush()
        return self._channel_cells

    def _flush(self) -> None:
        if len(self._tables):
            index, counts, positions = kernels.harvest(self._tables)
            found = [np.zeros(len(index), np.int32), split_index(index, self._bits)]
            self._cells = join_cells(self._cells, (found, [counts, positions]))
        for channel in range(len(self._channel_tables)):
            index, counts, positions = kernels.harvest(self._channel_tables[channel : channel + 1])
            found = [np.full(len(index), channel, np.int32), split_index(index, self._channel_bits)]
            self._channel_cells = join_cells(self._channel_cells, (found, [counts, positions]))
        self._pending = 0


def lazy_tables(rows: int, mantissa_bits: int) -> U64:
    """Zeros (rows, 2**(9 + mantissa_bits)) that take memory only where they are written.

    From the system's mapping, not from numpy's allocator, which may hand out recycled memory and then must clear it,
    or ask for huge pages; either makes the whole table resident, and a model has hundreds of tables.
    """
    cells = 1 << (9 + mantissa_bits)
    if rows == 0:
        return np.zeros((0, cells), np.uint64)
    size = rows * cells * 8
    private = getattr(mmap, "MAP_PRIVATE", None)  # not on Windows, where an anonymous mapping needs no flags
    memory = mmap.mmap(-1, size) if private is None else mmap.mmap(-1, size, private | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint64).reshape(rows, cells)


def _no_cells() -> Cells:
    none: NDArray[np.int32] = np.zeros(0, np.int32)
    return [none, none], [np.zeros(0, np.int64), np.zeros(0, np.int64)]
