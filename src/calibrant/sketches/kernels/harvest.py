"""The kernels that look tables through and empty them, compiled by numba: twins of `reference`'s."""

from __future__ import annotations

import numpy as np

from calibrant.sketches.cells import I64
from calibrant.sketches.kernels.jit import compiled
from calibrant.sketches.kernels.reference import MARK, U64

STRIP = 256  # cells of a table that are looked at together; every table has a multiple of it
_EMPTY = np.uint64(0)


@compiled
def harvest(tables: U64) -> tuple[I64, I64, I64, I64]:
    """See `reference.harvest`."""
    most = 0
    for packed in tables.reshape(-1):
        most += packed != _EMPTY
    group, index = np.empty(most, np.int64), np.empty(most, np.int64)
    counts, positions = np.empty(most, np.int64), np.empty(most, np.int64)
    found = 0
    for g in range(len(tables)):
        for start in range(0, tables.shape[1], STRIP):
            if not _any(tables, g, start):
                continue
            for cell in range(start, start + STRIP):
                if tables[g, cell] != _EMPTY:  # what is never written takes no memory
                    group[found], index[found] = g, cell
                    counts[found], positions[found] = _unpacked(tables[g, cell], cell)
                    tables[g, cell] = _EMPTY
                    found += 1
    return group, index, counts, positions


@compiled
def load(tables: U64) -> int:
    """See `reference.load`."""
    most = np.int64(0)
    for g in range(len(tables)):
        for start in range(0, tables.shape[1], STRIP):
            if _any(tables, g, start):
                for cell in range(start, start + STRIP):
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


@compiled
def _any(tables: U64, g: int, start: int) -> bool:
    """Whether a strip of a group's table holds anything."""
    seen = _EMPTY
    for cell in range(start, start + STRIP):
        seen |= tables[g, cell]
    return bool(seen != _EMPTY)
