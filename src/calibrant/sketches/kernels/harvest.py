"""The kernels that look tables through, empty them and join what was in them: twins of `reference`'s in numba.

Why their own file: see `jit.compiled`."""

from __future__ import annotations

import numpy as np

from calibrant.sketches.cells import I32, I64
from calibrant.sketches.kernels.jit import compiled
from calibrant.sketches.kernels.reference import U64

STRIP = 256  # cells of a table that are looked at together; every table has a multiple of it


@compiled
def harvest(tables: U64, positive: int, negative: int) -> tuple[I64, I64, I64, I64]:
    """See `reference.harvest`."""
    groups, copies, cells = tables.shape
    empty, half, most = np.uint64(0), cells // 2, 0
    looked = ((0, min(positive, half)), (half, half + min(max(negative, 1), half)))  # what -0.0 owes stands first there
    for g in range(groups):
        for begin, end in looked:
            for start in range(begin, end, STRIP):
                if _any(tables, g, start):
                    most += _filled(tables, g, start)
    group, index = np.empty(most, np.int64), np.empty(most, np.int64)
    counts, positions = np.empty(most, np.int64), np.empty(most, np.int64)
    found = 0
    for g in range(groups):
        for begin, end in looked:
            for start in range(begin, end, STRIP):
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
def join(
    channel: I32, keys: I32, counts: I64, sums: I64, channel_b: I32, keys_b: I32, counts_b: I64, sums_b: I64
) -> tuple[I32, I32, I64, I64]:
    """See `reference.join`."""
    size, size_b = len(keys), len(keys_b)
    channel_c, keys_c = np.empty(size + size_b, np.int32), np.empty(size + size_b, np.int32)
    counts_c, sums_c = np.empty(size + size_b, np.int64), np.empty(size + size_b, np.int64)
    i = j = n = 0
    while i < size or j < size_b:
        order = 0 if i < size and j < size_b else 1 if i == size else -1
        if order == 0 and channel[i] != channel_b[j]:
            order = 1 if channel[i] > channel_b[j] else -1
        elif order == 0 and keys[i] != keys_b[j]:
            order = 1 if keys[i] > keys_b[j] else -1
        if order <= 0:
            channel_c[n], keys_c[n], counts_c[n], sums_c[n] = channel[i], keys[i], counts[i], sums[i]
            i += 1
        else:
            channel_c[n], keys_c[n], counts_c[n], sums_c[n] = channel_b[j], keys_b[j], counts_b[j], sums_b[j]
        if order == 0:
            counts_c[n] += counts_b[j]
            sums_c[n] += sums_b[j]
        j += order >= 0
        n += 1
    return channel_c[:n].copy(), keys_c[:n].copy(), counts_c[:n].copy(), sums_c[:n].copy()


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
def _filled(tables: U64, g: int, start: int) -> int:
    """How many cells of the strip hold anything in any copy."""
    filled = 0
    for cell in range(start, start + STRIP):
        seen = np.uint64(0)
        for copy in range(tables.shape[1]):
            seen |= tables[g, copy, cell]
        filled += seen != np.uint64(0)
    return filled


@compiled
def _any(tables: U64, g: int, start: int) -> bool:
    """Whether a strip of a group's tables holds anything."""
    seen = np.uint64(0)
    for copy in range(tables.shape[1]):
        for cell in range(start, start + STRIP):
            seen |= tables[g, copy, cell]
    return bool(seen != np.uint64(0))
