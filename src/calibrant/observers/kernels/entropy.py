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
from calibrant.observers.kernels.lowest import lowest
from calibrant.observers.kernels.pieces import F64, I64, Side, counts_above, make_sides
from calibrant.observers.kernels.ranks import count_up_to
from calibrant.sketches.kernels.jit import borrowing, compiled

BINS = 2048
LEAST_Q = 1e-12  # what Q counts as where it is empty and P is not
LOG_LEAST_Q = np.log(LEAST_Q)
LEAST_INSIDE = 0.5  # the share of the values that a window with two free ends must hold: one bin of them alone has KL 0
ALL_WINDOWS = 4096  # so many are all tried; more are searched coarse to fine
COARSE, STARTS, FINER = 32, 6, 4  # first so many edges on either side; then around so many, each time so much finer
FEW_LEVELS = 64  # fewer, and a window is as quick as a look at its groups
NEAR = 1e-9  # more than rounding makes of a divergence
LOOK = 32  # groups, after each of which a window may be given up
TURNS = 3  # at last, so often, along one end and then along the other


class Sums(NamedTuple):
    """Of the bins before i: values, n * log(n), bins that are not empty; each (BINS + 1,). counts, n_log_n: (BINS,)."""

    counts: F64
    n_log_n: F64
    values: F64
    logs: F64
    filled: F64


@compiled
def symmetric_counts(pos: Side, neg: Side, zeros: float, top: float) -> F64:
    """Whole counts of |x| in BINS equal bins over [0, top]; bin 0, where the zeros are, has bin 1's count."""
    edges, total = top * np.arange(BINS + 1) / BINS, np.rint(pos.n + neg.n + zeros)
    below = np.rint(total - counts_above(pos, edges) - counts_above(neg, edges))
    below[BINS] = total
    counts = below[1:] - below[:-1]
    counts[0] = counts[1]
    return counts


@compiled
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


@compiled
def make_sums(counts: F64) -> Sums:
    """The sums that `divergence` looks up."""
    bins = len(counts)
    values, logs, filled = np.zeros(bins + 1), np.zeros(bins + 1), np.zeros(bins + 1)
    n_log_n = np.empty(bins)
    for i in range(bins):
        n = counts[i]
        n_log_n[i] = _n_log_n(n)
        values[i + 1] = values[i] + n
        logs[i + 1] = logs[i] + n_log_n[i]
        filled[i + 1] = filled[i] + (n > 0)
    return Sums(counts, n_log_n, values, logs, filled)


@borrowing
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


@compiled
def make_groups(sums: Sums, levels: int) -> F64:
    """[m, i]: n log(n / filled) of the m bins from i on, n values in `filled` bins that are not empty, for every m that
    a group of a window can have; nothing where `divergence` itself does as well.

    The same few thousand groups make up all the windows, so that one takes no more than a look at each of its groups.
    Filled in for an m when a window first needs them (see `_fill_groups`): few windows are looked at that closely.
    """
    bins = len(sums.counts)
    if levels < FEW_LEVELS or sums.values[bins] * bins > 1 / LEAST_Q:
        return np.zeros((0, bins))
    return np.zeros((1 + (bins + levels - 1) // levels, bins))


@borrowing
def _fill_groups(sums: Sums, groups: F64, m: int) -> None:
    """The groups of m bins, unless they are there: [0, m] says so."""
    if groups[0, m] == 0:
        values, filled = sums.values, sums.filled
        for i in range(len(sums.counts) - m + 1):
            n = values[i + m] - values[i]
            if n > 0:
                groups[m, i] = n * np.log(n / (filled[i + m] - filled[i]))
        groups[0, m] = 1


@borrowing
def quick_divergence(sums: Sums, groups: F64, first: int, last: int, levels: int, enough: float) -> float:
    """`divergence` to within NEAR; inf where the end bins, or these and groups, show it to be more than `enough`.

    That is by the log sum inequality: over any set of bins, sum p log(p / q) >= P log(P / Q), and Q is at most 1.
    """
    if len(groups) == 0:
        return divergence(sums, first, last, levels)
    values, filled = sums.values, sums.filled
    bins, total, inside = last - first, values[len(values) - 1], values[last] - values[first]
    if inside <= 0:
        return np.inf
    end_bins, others, moved, log_total = 0.0, total, 0.0, np.log(total)
    for end in range(2):
        beyond = values[first] if end == 0 else total - values[last]
        if beyond > 0:
            begin = first if end == 0 else first + ((levels - 1) * bins + levels - 1) // levels
            stop = first + (bins + levels - 1) // levels if end == 0 else last
            at = first if end == 0 else last - 1
            n = sums.counts[at]
            p = n + beyond
            log_q = LOG_LEAST_Q
            if n > 0:
                log_q = np.log((values[stop] - values[begin]) / ((filled[stop] - filled[begin]) * inside))
            end_bins += p * (np.log(p) - log_q)
            moved += n * log_q - sums.n_log_n[at]
            others -= p
    if (end_bins + _n_log_n(others)) / total - log_total > enough:
        return np.inf
    here = end_bins + moved + _n_log_n(inside)
    lost = _lost_in_groups(sums, groups, first, bins, levels, (enough + log_total) * total - here)
    return (here + lost) / total - log_total


@borrowing
def _lost_in_groups(sums: Sums, groups: F64, first: int, bins: int, levels: int, most: float) -> float:
    """What merging loses: over the groups of the window, n log(n) of its bins less that of the group, which is never
    less. inf where that is clearly more than `most`, which is looked at now and then.

    Four sums side by side, so that none waits for the one before. Group g begins (g * bins + levels - 1) // levels bins
    on, here without a division: the half keeps it from rounding.
    """
    for m in range(bins // levels, (bins + levels - 1) // levels + 1):
        _fill_groups(sums, groups, m)
    flat, width, length, part = groups.reshape(-1), np.int32(groups.shape[1]), np.float64(bins), 1 / levels
    one = two = three = four = 0.0
    begin, last = np.int32(first), levels - levels % 4
    for g in range(0, last, 4):
        if g % LOOK == 0 and sums.logs[begin] - sums.logs[first] - (one + two + three + four) > most:
            return np.inf
        at = g * length + (levels - 0.5 + first * levels)
        a, b = np.int32((at + length) * part), np.int32((at + 2 * length) * part)
        c, d = np.int32((at + 3 * length) * part), np.int32((at + 4 * length) * part)
        one += flat[np.uint32((a - begin) * width + begin)]
        two += flat[np.uint32((b - a) * width + a)]
        three += flat[np.uint32((c - b) * width + b)]
        four += flat[np.uint32((d - c) * width + c)]
        begin = d
    for g in range(last, levels):
        end = np.int32(((g + 1) * length + (levels - 0.5 + first * levels)) * part)
        one += flat[np.uint32((end - begin) * width + begin)]
        begin = end
    return sums.logs[first + bins] - sums.logs[first] - (one + two + three + four)


@compiled
def best_top(sums: Sums, levels: int) -> int:
    """How many bins, from the first on, to keep for the least divergence: the fewest of those that are equal."""
    bins, groups = len(sums.counts), make_groups(sums, levels)
    curve, least = np.full(bins + 1, np.inf), np.inf
    for i in range(bins, levels - 1, -1):
        curve[i] = quick_divergence(sums, groups, 0, i, levels, least + NEAR)
        least = min(least, curve[i])
    best, at = np.inf, bins
    for i in range(levels, bins + 1):
        if curve[i] <= least + 2 * NEAR:
            kl = divergence(sums, 0, i, levels)
            if kl < best:
                best, at = kl, i
    return at


@compiled
def best_window(sums: Sums, zero: int, levels: int) -> tuple[int, int]:
    """The window around bin `zero` with the least divergence that is found.

    Where there are few windows, of all. Else of those from every n-th edge to every n-th, COARSE on either side; then
    finer and finer around the best STARTS of these; last of all along each end while the other stays.
    """
    bins, groups = len(sums.counts), make_groups(sums, levels)
    if (zero + 1) * (bins - zero) <= ALL_WINDOWS:
        _, first, last = _scan(sums, groups, 0, zero, 1, zero + 1, bins, 1, levels)
        return first, last
    step_first, step_last = (zero + COARSE) // COARSE, (bins - zero + COARSE - 1) // COARSE
    starts, count = np.empty((COARSE + 2, 3)), 0
    for last in range(bins, zero, -step_last):
        kl, first, _ = _scan(sums, groups, 0, zero, step_first, last, last, 1, levels)
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
            found, at_first, at_last = _scan(sums, groups, low, high, near_first, left, right, near_last, levels)
            if found < kl:
                kl, first, last = found, at_first, at_last
        if kl < best:
            best, best_first, best_last = kl, first, last
    for _ in range(TURNS):
        before = best
        kl, _, last = _scan(sums, groups, best_first, best_first, 1, zero + 1, bins, 1, levels)
        if kl < best:
            best, best_last = kl, last
        kl, first, _ = _scan(sums, groups, 0, zero, 1, best_last, best_last, 1, levels)
        if kl < best:
            best, best_first = kl, first
        if best == before:
            break
    return best_first, best_last


@compiled
def _scan(
    sums: Sums, groups: F64, low: int, high: int, step_first: int, left: int, right: int, step_last: int, levels: int
) -> tuple[float, int, int]:
    """The best of the windows from low, low + step_first, ... <= high to right, right - step_last, ... >= left."""
    fewest = LEAST_INSIDE * sums.values[len(sums.values) - 1]
    across = (right - left) // step_last + 1
    quick, least = np.full(((high - low) // step_first + 1, across), np.inf), np.inf
    for i in range(len(quick)):
        first = low + i * step_first
        for j in range(across):
            last = right - j * step_last
            if last - first < levels or sums.values[last] - sums.values[first] < fewest:
                break
            quick[i, j] = quick_divergence(sums, groups, first, last, levels, least + NEAR)
            least = min(least, quick[i, j])
    best, best_first, best_last = np.inf, low, right
    for i in range(len(quick)):
        for j in range(across):
            if quick[i, j] < np.inf and quick[i, j] <= least + 2 * NEAR:
                first, last = low + i * step_first, right - j * step_last
                kl = divergence(sums, first, last, levels)
                if kl < best:
                    best, best_first, best_last = kl, first, last
    return best, best_first, best_last


@compiled
def _n_log_n(n: float) -> float:
    return n * np.log(n) if n > 0 else 0.0


@compiled
def _end_bin(n: float, beyond: float, q: float) -> float:
    """An end bin's p log(p / q): n values are in it, and those beyond the window, which Q does not see."""
    p = n + beyond
    return p * np.log(p / (q if n > 0 else LEAST_Q))


@compiled
def symmetric_tops(cells: Cells, levels: int, top: F64) -> F64:
    """For every channel: from the largest magnitude to the threshold with the least divergence, in place.

    Returns the share of the values that is clipped, those in the first bin aside.
    """
    clipped = np.zeros(len(top))
    for c in range(len(top)):
        if top[c] > 0:
            pos, neg, zeros = make_sides(cells, c)
            sums = make_sums(symmetric_counts(pos, neg, zeros, top[c]))
            best = best_top(sums, levels)
            top[c] *= best / BINS
            clipped[c] = 1 - sums.values[best] / sums.values[BINS]
    return clipped


@compiled
def asymmetric_ends(cells: Cells, levels: int, lo: F64, hi: F64) -> None:
    """For every channel: from the ends of the values, widened to hold 0, to the window that is best, in place."""
    for c in range(len(lo)):
        if lo[c] < hi[c]:
            pos, neg, zeros = make_sides(cells, c)
            counts, zero = asymmetric_counts(pos, neg, zeros, lo[c], hi[c])
            first, last = best_window(make_sums(counts), zero, levels)
            width = (hi[c] - lo[c]) / BINS
            lo[c], hi[c] = lo[c] + first * width, (hi[c] if last == BINS else lo[c] + last * width)


@compiled
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
