"""The kernels that look tables through and empty them, compiled by numba: twins of `reference`'s.

Why their own file: see `jit.compiled`."""

from __future__ import annotations

import numpy as np

from calibrant.sketches.cells import I64
from calibrant.sketches.kernels.jit import compiled
from calibrant.sketches.kernels.reference import U64

STRIP = 256  # cells of a table that are looked at together; every table has a multiple of it


@compiled
def harvest(tables: U64) -> tuple[I64, I64, I64, I64]:
    """See `reference.harvest`."""
    groups, copies, cells = tables.shape
    empty, most = np.uint64(0), 0
    for packed in tables.reshape(-1):
        most += packed != empty
    group, index = np.empty(most, np.int64), np.empty(most, np.int64)
    counts, positions = np.empty(most, np.int64), np.empty(most, np.int64)
    found = 0
    for g in range(groups):
        for start in range(0, cells, STRIP):
            if not _any(tables, g, start):
                continue
            for cell in range(start, start + STRIP):
                total = empty
                for copy in range(copies):
                    if tables[g, copy, cell] != empty:  # what is never written takes no memory
                        total += tables[g, copy, cell]
                        tables[g, copy, cell] = empty
                if total != empty:
                    group[found], index[found] = g, cell
                    counts[found] = np.int64(total >> np.uint64(32))
                    positions[found] = np.int64(total & np.uint64(2**32 - 1))
                    found += 1
    return group[:found], index[:found], counts[:found], positions[:found]


@compiled
def load(tables: U64) -> int:
    """See `reference.load`."""
    groups, copies, cells = tables.shape
    empty, most = np.uint64(0), np.uint64(0)
    for g in range(groups):
        for start in range(0, cells, STRIP):
            if not _any(tables, g, start):
                continue
            for cell in range(start, start + STRIP):
                total = empty
                for copy in range(copies):
                    total += tables[g, copy, cell]
                if total != empty:
                    by_positions = (total & np.uint64(2**32 - 1)) // np.uint64(255)
                    by_count = total >> np.uint64(40)
                    most = max(most, by_positions + np.uint64(1), by_count + np.uint64(1))
    return int(most)


@compiled
def _any(tables: U64, g: int, start: int) -> bool:
    """Whether a strip of a group's tables holds anything."""
    seen = np.uint64(0)
    for copy in range(tables.shape[1]):
        for cell in range(start, start + STRIP):
            seen |= tables[g, copy, cell]
    return bool(seen != np.uint64(0))
