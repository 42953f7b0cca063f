"""Ranks on pieces: how many values are at most x, and which value has a given rank."""

# mypy: disable-error-code="no-any-return"
# (to mypy an element of an array is Any)

from __future__ import annotations

import numpy as np

from calibrant.observers.cells import Cells
from calibrant.observers.kernels.pieces import F64, Side, counts_above, make_sides, tail
from calibrant.sketches.kernels.jit import borrowing, compiled

LARGEST_BITS = 0x7F7FFFFF  # of the largest finite float32


@compiled
def count_up_to(pos: Side, neg: Side, zeros: float, points: F64) -> F64:
    """How many values are at most each of the points."""
    above = counts_above(pos, points)
    # values <= x < 0 have magnitudes >= -x: those above the float64 just below it
    return np.where(points >= 0, neg.n + zeros + pos.n - above, counts_above(neg, -points * (1 - 1e-15)))


@compiled
def quantiles_of_channels(cells: Cells, ps: F64) -> F64:
    """`quantile` of every channel for each of ps: (channels, len(ps))."""
    found = np.empty((len(cells.lo), len(ps)))
    for c in range(len(found)):
        pos, neg, zeros = make_sides(cells, c)
        size = cells.counts[cells.starts[c] : cells.starts[c + 1]].sum()
        for i in range(len(ps)):
            found[c, i] = quantile(pos, neg, zeros, cells.lo[c], cells.hi[c], size, ps[i])
    return found


@compiled
def magnitude_quantiles_of_channels(cells: Cells, p: float) -> F64:
    """`quantile_of_magnitude` of every channel."""
    found = np.empty(len(cells.lo))
    for c in range(len(found)):
        pos, neg, _ = make_sides(cells, c)
        size = cells.counts[cells.starts[c] : cells.starts[c + 1]].sum()
        found[c] = quantile_of_magnitude(pos, neg, size, p)
    return found


@borrowing
def quantile(pos: Side, neg: Side, zeros: float, lo: float, hi: float, size: int, p: float) -> float:
    """Of all values, with numpy's linear interpolation; lo and hi are the exact ends."""
    rank = p * (size - 1)
    low = np.floor(rank)
    a = min(max(_value_at(pos, neg, zeros, low), lo), hi)
    b = a if rank == low else min(max(_value_at(pos, neg, zeros, low + 1), lo), hi)
    return a + (b - a) * (rank - low)


@borrowing
def quantile_of_magnitude(pos: Side, neg: Side, size: int, p: float) -> float:
    """Of the magnitudes of all values, with numpy's linear interpolation."""
    rank = p * (size - 1)
    low = np.floor(rank)
    a = _magnitude_at(pos, neg, size - low - 0.5)
    b = a if rank == low else _magnitude_at(pos, neg, size - low - 1.5)
    return a + (b - a) * (rank - low)


@borrowing
def _value_at(pos: Side, neg: Side, zeros: float, rank: float) -> float:
    """The value of that rank (0 is the smallest): spread values sit in the middle of the mass that each has."""
    negative = neg.n
    if rank < negative:
        return -_above(neg, neg, 0.5, rank + 0.5)
    if rank < negative + zeros:
        return 0.0
    return _above(pos, pos, 0.5, pos.n - (rank - negative - zeros) - 0.5)


@borrowing
def _magnitude_at(pos: Side, neg: Side, above: float) -> float:
    """The magnitude that has `above` of the values above it."""
    return _above(pos, neg, 1.0, above)


@borrowing
def _above(one: Side, other: Side, share: float, above: float) -> float:
    """The least float32 with at most `above` values above it, of `share` of those of either side together."""
    if share * (one.n + other.n) <= above:
        return 0.0
    low, high = 0, LARGEST_BITS  # more than `above` lie above low, at most `above` above high
    while high - low > 1:
        middle = (low + high) // 2
        b = float(np.int32(middle).view(np.float32))
        if share * (tail(one, b)[0] + tail(other, b)[0]) <= above:
            high = middle
        else:
            low = middle
    return float(np.int32(high).view(np.float32))
