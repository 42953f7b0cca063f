"""The window of linear bins that loses least information when its bins are merged into the levels of a grid.

After Migacz, "8-bit Inference with TensorRT" (GTC 2017): for a window of bins, the reference P is what is in it, with
what lies beyond added to its end bins; the candidate Q is the window merged into `levels` groups of bins and spread
back evenly over each group's bins that are not empty. The best window has the least KL(P || Q). With sums from bin 0 on
of counts, of count times log count and of bins that are not empty, a window costs O(levels).
"""

# mypy: disable-error-code="no-any-return"
# (to mypy an element of an array is Any)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from calibrant.observers.cells import Cells
from calibrant.observers.kernels.jit import jit
from calibrant.observers.kernels.lowest import lowest
from calibrant.observers.kernels.pieces import F64, I64, Side, make_sides, tail
from calibrant.observers.kernels.ranks import count_up_to

BINS = 2048
LEAST_Q = 1e-12  # what Q counts as where it is empty and P is not
LEAST_INSIDE = 0.5  # the share of the values that a window with two free ends must hold: one bin of them alone has KL 0
ALL_WINDOWS = 4096  # so many are all tried; more are searched coarse to fine
COARSE, STARTS, FINER = 32, 6, 4  # first so many edges on either side; then around so many, each time so much finer
TURNS = 3  # at last, so often, along one end and then along the other


class Sums(NamedTuple):
    """Of the bins before i: values, n * log(n), bins that are not empty; each (BINS + 1,). counts: (BINS,)."""

    counts: F64
    values: F64
    logs: F64
    filled: F64


@jit
def symmetric_counts(pos: Side, neg: Side, zeros: float, top: float) -> F64:
    """Whole counts of |x| in BINS equal bins over [0, top]; bin 0, where the zeros are, has bin 1's count."""
    below = np.full(BINS + 1, np.rint(pos.n + neg.n + zeros))
    for i in range(BINS):
        edge = top * i / BINS
        below[i] = np.rint(below[BINS] - tail(pos, edge)[0] - tail(neg, edge)[0])
    counts = below[1:] - below[:-1]
    counts[0] = counts[1]
    return counts


@jit
def asymmetric_counts(pos: Side, neg: Side, zeros: float, lo: float, hi: float) -> tuple[F64, int]:
    """Whole counts in BINS equal bins over [lo, hi], which holds 0, and the bin of 0.

    That bin does not vote with its zeros either: it has its neighbour's count, or the mean of both.
    """
    below = np.rint(count_up_to(pos, neg, zeros, lo + (hi - lo) * np.arange(BINS + 1) / BINS))
    below[0], below[BINS] = 0.0, np.rint(pos.n + neg.n + zeros)
    counts = below[1:] - below[:-1]
    zero = min(int(-lo / (hi - lo) * BINS), BINS - 1)
    if zero == 0:
        counts[0] = counts[1]
    elif zero == BINS - 1:
        counts[zero] = counts[zero - 1]
    else:
        counts[zero] = np.rint((counts[zero - 1] + counts[zero + 1]) / 2)
    return counts, zero


@jit
def make_sums(counts: F64) -> Sums:
    """The sums that `divergence` looks up."""
    bins = len(counts)
    values, logs, filled = np.zeros(bins + 1), np.zeros(bins + 1), np.zeros(bins + 1)
    for i in range(bins):
        n = counts[i]
        values[i + 1] = values[i] + n
        logs[i + 1] = logs[i] + _n_log_n(n)
        filled[i + 1] = filled[i] + (n > 0)
    return Sums(counts, values, logs, filled)


@jit
def divergence(sums: Sums, first: int, last: int, levels: int) -> float:
    """KL(P || Q) of the window of bins first <= i < last, at least `levels` of them; inf where it is empty."""
    values, logs, filled = sums.values, sums.logs, sums.filled
    bins, total, inside = last - first, values[len(values) - 1], values[last] - values[first]
    if inside <= 0:
        return np.inf
    end_first, end_last = sums.counts[first], sums.counts[last - 1]
    below, above = values[first], total - values[last]
    result = 0.0
    begin = first
    for g in range(levels):
        end = first + ((g + 1) * bins + levels - 1) // levels
        mass = values[end] - values[begin]
        if mass > 0 or end == last or begin == first:
            q = max(mass / (max(filled[end] - filled[begin], 1) * inside), LEAST_Q)
            if begin == first and below > 0:
                result += _end_bin(end_first, below, q) - _n_log_n(end_first)
                mass -= end_first
            if end == last and above > 0:
                result += _end_bin(end_last, above, q) - _n_log_n(end_last)
                mass -= end_last
            result -= mass * np.log(q)
        begin = end
    return (result + logs[last] - logs[first]) / total - np.log(total)


@jit
def symmetric_curve(sums: Sums, levels: int) -> F64:
    """The divergence of keeping the first i bins, for every i; inf below `levels`."""
    bins = len(sums.counts)
    curve = np.full(bins + 1, np.inf)
    for i in range(levels, bins + 1):
        curve[i] = divergence(sums, 0, i, levels)
    return curve


@jit
def best_window(sums: Sums, zero: int, levels: int) -> tuple[int, int]:
    """The window around bin `zero` with the least divergence that is found.

    Where there are few windows, of all. Else of those from every n-th edge to every n-th, COARSE on either side; then
    finer and finer around the best STARTS of these; last of all along each end while the other stays.
    """
    bins = len(sums.counts)
    if (zero + 1) * (bins - zero) <= ALL_WINDOWS:
        _, first, last = _scan(sums, 0, zero, 1, zero + 1, bins, 1, levels)
        return first, last
    step_first, step_last = (zero + COARSE) // COARSE, (bins - zero + COARSE - 1) // COARSE
    starts, count = np.empty((COARSE + 2, 3)), 0
    for last in range(bins, zero, -step_last):
        kl, first, _ = _scan(sums, 0, zero, step_first, last, last, 1, levels)
        starts[count, 0], starts[count, 1], starts[count, 2] = kl, first, last
        count += 1
    best, best_first, best_last = np.inf, 0, bins
    for start in lowest(starts[:count, 0].copy(), STARTS):
        kl, first, last = starts[start, 0], int(starts[start, 1]), int(starts[start, 2])
        near_first, near_last = step_first, step_last
        while near_first > 1 or near_last > 1:
            far_first, far_last = near_first, near_last
            near_first, near_last = max(near_first // FINER, 1), max(near_last // FINER, 1)
            low, high = max(first - far_first, 0), min(first + far_first, zero)
            left, right = max(last - far_last, zero + 1), min(last + far_last, bins)
            found, at_first, at_last = _scan(sums, low, high, near_first, left, right, near_last, levels)
            if found < kl:
                kl, first, last = found, at_first, at_last
        if kl < best:
            best, best_first, best_last = kl, first, last
    for _ in range(TURNS):
        before = best
        kl, _, last = _scan(sums, best_first, best_first, 1, zero + 1, bins, 1, levels)
        if kl < best:
            best, best_last = kl, last
        kl, first, _ = _scan(sums, 0, zero, 1, best_last, best_last, 1, levels)
        if kl < best:
            best, best_first = kl, first
        if best == before:
            break
    return best_first, best_last


@jit
def _scan(
    sums: Sums, low: int, high: int, step_first: int, left: int, right: int, step_last: int, levels: int
) -> tuple[float, int, int]:
    """The best of the windows from low, low + step_first, ... <= high to right, right - step_last, ... >= left."""
    least = LEAST_INSIDE * sums.values[len(sums.values) - 1]
    best, best_first, best_last = np.inf, low, right
    for first in range(low, high + 1, step_first):
        for last in range(right, left - 1, -step_last):
            if last - first < levels or sums.values[last] - sums.values[first] < least:
                break
            kl = divergence(sums, first, last, levels)
            if kl < best:
                best, best_first, best_last = kl, first, last
    return best, best_first, best_last


@jit
def _n_log_n(n: float) -> float:
    return n * np.log(n) if n > 0 else 0.0


@jit
def _end_bin(n: float, beyond: float, q: float) -> float:
    """An end bin's p log(p / q): n values are in it, and those beyond the window, which Q does not see."""
    p = n + beyond
    return p * np.log(p / (q if n > 0 else LEAST_Q))


@jit
def symmetric_tops(cells: Cells, levels: int, top: F64) -> F64:
    """For every channel: from the largest magnitude to the threshold with the least divergence, in place.

    Returns the share of the values that is clipped, those in the first bin aside.
    """
    clipped = np.zeros(len(top))
    for c in range(len(top)):
        if top[c] > 0:
            pos, neg, zeros = make_sides(cells, c)
            sums = make_sums(symmetric_counts(pos, neg, zeros, top[c]))
            best = np.argmin(symmetric_curve(sums, levels))
            top[c] *= best / BINS
            clipped[c] = 1 - sums.values[best] / sums.values[BINS]
    return clipped


@jit
def asymmetric_ends(cells: Cells, levels: int, lo: F64, hi: F64) -> None:
    """For every channel: from the ends of the values, widened to hold 0, to the window that is best, in place."""
    for c in range(len(lo)):
        if lo[c] < hi[c]:
            pos, neg, zeros = make_sides(cells, c)
            counts, zero = asymmetric_counts(pos, neg, zeros, lo[c], hi[c])
            first, last = best_window(make_sums(counts), zero, levels)
            width = (hi[c] - lo[c]) / BINS
            lo[c], hi[c] = lo[c] + first * width, (hi[c] if last == BINS else lo[c] + last * width)


@jit
def power_scales(cells: Cells, levels: int, symmetric: bool, covered: float, lo: F64, hi: F64, scale: F64) -> I64:
    """For every channel the power of two with the least divergence, in place, and in how many bins its grid starts.

    scale: what covers all of [lo, hi], where the search starts; it goes down as long as the grid has bins enough.
    covered: how many scales the window of the grid is long (its positive part if symmetric).
    """
    firsts = np.zeros(len(scale), np.int64)
    for c in range(len(scale)):
        if lo[c] >= hi[c]:
            continue
        pos, neg, zeros = make_sides(cells, c)
        zero = 0
        if symmetric:
            counts = symmetric_counts(pos, neg, zeros, hi[c])
        else:
            counts, zero = asymmetric_counts(pos, neg, zeros, lo[c], hi[c])
        sums, best, s = make_sums(counts), np.inf, scale[c]
        low = 0.0 if symmetric else lo[c]
        while True:
            length = int(np.rint(min(covered * s / (hi[c] - low) * BINS, BINS)))
            if length < levels:
                break
            for first in range(max(zero + 1 - length, 0), min(zero, BINS - length) + 1):
                kl = divergence(sums, first, first + length, levels)
                if kl < best:
                    best, scale[c], firsts[c] = kl, s, first
            s /= 2
    return firsts
