"""The kernels that look tables through and empty them, compiled by numba: twins of `reference`'s."""

from __future__ import annotations

import numpy as np

from calibrant.sketches.cells import I32, I64
from calibrant.sketches.kernels.jit import compiled
from calibrant.sketches.kernels.ordered import unsigned
from calibrant.sketches.kernels.reference import MARK, U64

_EMPTY = np.uint64(0)


@compiled
def harvest(tables: U64, positive: int, negative: int) -> tuple[I32, I32, I64, I64]:
    """See `reference.harvest`."""
    half, most = tables.shape[1] // 2, 0
    for g in range(len(tables)):
        for start, stop in ((0, positive), (half, half + negative)):
            for cell in unsigned(start, stop):
                most += tables[g, cell] != _EMPTY
    group, keys = np.empty(most, np.int32), np.empty(most, np.int32)
    counts, positions = np.empty(most, np.int64), np.empty(most, np.int64)
    found = 0
    for g in range(len(tables)):
        for key in range(-negative, positive):
            cell = key if key >= 0 else half - 1 - key
            if tables[g, cell] != _EMPTY:  # what is never written takes no memory
                group[found], keys[found] = g, key
                counts[found], positions[found] = _unpacked(tables[g, cell], cell)
                tables[g, cell] = _EMPTY
                found += 1
    return group, keys, counts, positions


@compiled
def load(tables: U64, positive: int, negative: int) -> int:
    """See `reference.load`."""
    half, most = tables.shape[1] // 2, np.int64(0)
    for g in range(len(tables)):
        for start, stop in ((0, positive), (half, half + negative)):
            for cell in range(start, stop):
                if tables[g, cell] != _EMPTY:
                    count, position = _unpacked(tables[g, cell], cell)
                    most = max(most, position // 255 + 1, (count >> 8) + 1)
    return int(most)


@compiled
def _unpacked(packed: np.uint64, cell: int) -> tuple[np.int64, np.int64]:
    """The count and the sum of positions of a cell."""
    word = MARK + (np.uint64(cell) << np.uint64(8))
    count = packed // word
    return np.int64(count), np.int64(packed - count * word)
