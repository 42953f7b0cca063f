"""The kernels that look tables through, empty them and join what was in them: twins of `reference`'s in numba."""

from __future__ import annotations

import numpy as np

from calibrant.sketches.cells import I32, I64
from calibrant.sketches.kernels.jit import borrowing, compiled
from calibrant.sketches.kernels.ordered import unsigned
from calibrant.sketches.kernels.reference import MARK, U64

_EMPTY = np.uint64(0)


@compiled
def harvest(tables: U64, positive: int, negative: int, elements: int) -> tuple[I32, I32, I64, I64]:
    """See `reference.harvest`."""
    half, groups, cells = len(tables) // 2, tables.shape[1], tables.reshape(-1)
    most, left = _held(cells, half, groups, 0, positive > 0, negative > 0)
    left, least = elements - left, max(positive, negative, 1)
    while left > 0 and least > 1:  # from the largest magnitudes down: most cells lie below the smallest one
        least -= 1
        more, held = _held(cells, half, groups, least, least < positive, least < negative)
        most, left = most + more, left - held
    group, keys = np.empty(most, np.int32), np.empty(most, np.int32)
    counts, positions = np.empty(most, np.int64), np.empty(most, np.int64)
    found = 0
    for start, stop in ((-negative, -least), (-min(negative, 1), min(positive, 1)), (least, positive)):
        for i in range(start * groups, stop * groups):  # keys ascend
            place = i if i >= 0 else half * groups - 1 - i
            if cells[place] != _EMPTY:  # what is never written takes no memory
                cell = place // groups
                group[found], keys[found] = place - cell * groups, cell if i >= 0 else half - 1 - cell
                counts[found], positions[found] = _unpacked(cells[place], cell)
                cells[place] = _EMPTY
                found += 1
    if groups == 1:
        return group, keys, counts, positions
    order = _by_group(group, groups)
    return group[order], keys[order], counts[order], positions[order]


@borrowing
def _held(cells: U64, half: int, groups: int, cell: int, positive: bool, negative: bool) -> tuple[int, np.int64]:
    """Of the cell of all groups, of either sign: how many are not empty, and how many elements they hold."""
    filled, held = 0, np.int64(0)
    for start, is_looked_at in ((cell, positive), (half + cell, negative)):
        if is_looked_at:
            for place in unsigned(start * groups, (start + 1) * groups):
                if cells[place] != _EMPTY:
                    filled += 1
                    held += _unpacked(cells[place], start)[0]
    return filled, held


@compiled
def _by_group(group: I32, groups: int) -> I64:
    """The places of all elements, those of group 0 first, in order within a group."""
    place, order = np.zeros(groups + 1, np.int64), np.empty(len(group), np.int64)
    for g in group:
        place[g + 1] += 1
    place = np.cumsum(place)
    for i, g in enumerate(group):
        order[place[g]] = i
        place[g] += 1
    return order


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
def load(tables: U64, positive: int, negative: int) -> int:
    """See `reference.load`."""
    half, most = len(tables) // 2, np.int64(0)
    for start, stop in ((0, positive), (half, half + negative)):
        for cell in range(start, stop):
            for g in unsigned(0, tables.shape[1]):
                if tables[cell, g] != _EMPTY:
                    count, position = _unpacked(tables[cell, g], cell)
                    most = max(most, position // 255 + 1, (count >> 8) + 1)
    return int(most)


@borrowing
def _unpacked(packed: np.uint64, cell: int) -> tuple[np.int64, np.int64]:
    """The count and the sum of positions of a cell."""
    word = MARK + (np.uint64(cell) << np.uint64(8))
    count = packed // word
    return np.int64(count), np.int64(packed - count * word)
