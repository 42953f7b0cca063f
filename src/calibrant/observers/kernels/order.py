"""The scale and offset under which most rows keep their largest value strictly above the second largest.

A row (a, b) is kept when a boundary between two levels of the grid lies between b and a. The k-th boundary above zero,
(k + 1/2)s, does so for s in (b / (k + 1/2), a / (k + 1/2)]: a few intervals of s for each row, whose ends are counted
into cells of log s. That bounds how many rows each scale can keep; the best are then counted exactly, with the
float32 arithmetic of the runtime, for every offset at once.
"""

# mypy: disable-error-code="no-any-return"
# (to mypy an element of an array is Any)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from calibrant.observers.kernels.pieces import F64, I64, Side
from calibrant.observers.kernels.squares import EXACT_LEVELS, Grid, error_of, fill_gains, narrowed
from calibrant.sketches.kernels.jit import borrowing, compiled

CELLS = 1 << 16
WIDEST = 2.0**30  # from the largest scale tried to the smallest
WORK = 2_000_000  # rows counted for one solution, about
INTERVALS, LEAST_APART = 8_000_000, 256  # of scales that keep a row: in all, about, and of one row
LEAST_TRIED, MOST_TRIED = 96, 4096  # scales
ROUNDS, CUTS = 3, 16  # the refinement: so often into so many parts
HALF_EVEN, HALF_UP, HALF_DOWN, HALF_TO_ZERO, HALF_AWAY, CEILING = range(6)


class Rows(NamedTuple):
    """top > second: the two largest values of a row, float32 values as float64; counts: how many rows have them."""

    top: F64
    second: F64
    counts: I64


class Found(NamedTuple):
    """A solution: kept rows, sum of squared errors, scale, steps of the grid below zero."""

    kept: int
    error: float
    scale: float
    below: int


@borrowing
def level(x: float, s: float, rounding: int) -> int:
    """The integer of x before offset and clipping, computed as runtimes do: in float32."""
    y = np.float32(x) / np.float32(s)
    if not np.abs(y) < 2.0**31:
        return 1 << 31 if y > 0 else -(1 << 31)
    wide = np.float64(y)
    if rounding == HALF_EVEN:
        return int(np.rint(wide))
    if rounding == HALF_UP:
        return int(np.floor(wide + 0.5))
    if rounding == HALF_DOWN:
        return int(np.ceil(wide - 0.5))
    if rounding == CEILING:
        return int(np.ceil(wide))
    size = np.ceil(np.abs(wide) - 0.5) if rounding == HALF_TO_ZERO else np.floor(np.abs(wide) + 0.5)
    return int(size if wide >= 0 else -size)


@compiled
def kept_rows(rows: Rows, s: float, grid: Grid, rounding: int, kept: I64) -> None:
    """kept[i]: how many rows scale s keeps with least_below + i steps below zero, for every i."""
    choices = len(kept)
    needs_below, needs_above = np.zeros(choices + 1, np.int64), np.zeros(choices + 1, np.int64)
    total = 0
    for r in range(len(rows.counts)):
        high, low = level(rows.top[r], s, rounding), level(rows.second[r], s, rounding)
        if high <= low:
            continue
        total += rows.counts[r]
        if high <= 0:  # the grid must reach down to the level below `high`
            needs_below[min(max(1 - high - grid.least_below, 0), choices)] += rows.counts[r]
        if low >= 0:  # and up to the level above `low`: this many steps below zero are too many
            needs_above[min(max(grid.span - low - grid.least_below, 0), choices)] += rows.counts[r]
    lost_below, lost_above = needs_below.sum(), 0
    for i in range(choices):
        lost_below -= needs_below[i]
        lost_above += needs_above[i]
        kept[i] = total - lost_below - lost_above


@compiled
def bound_curve(rows: Rows, grid: Grid, largest: float, step: float) -> I64:
    """How many rows the scale largest * exp(-step * i) keeps at most, whatever the offset, for every i < CELLS."""
    change = np.zeros(CELLS + 1, np.int64)
    above, below = grid.span - grid.least_below, grid.most_below
    apart = max(INTERVALS // max(len(rows.counts), 1), LEAST_APART)
    for r in range(len(rows.counts)):
        a, b, n = rows.top[r], rows.second[r], rows.counts[r]
        if b < 0 < a:
            reach = max(a / max(grid.up, 1e-9) if above > 0 else 0.0, -b / max(grid.down, 1e-9) if below > 0 else 0.0)
            _count_between(0.0, reach, n, largest, step, change)
        elif b >= 0:
            _count_intervals(b, a, n, above, grid.up, apart, largest, step, change)
        else:
            _count_intervals(-a, -b, n, below, grid.down, apart, largest, step, change)
    return np.cumsum(change)[:CELLS]


@borrowing
def _count_intervals(
    near: float, far: float, n: int, levels: int, shift: float, apart: int, largest: float, step: float, change: I64
) -> None:
    """n rows that a boundary in (near, far] keeps: the scales s with (k + shift)s there for some k < levels.

    At most `apart` intervals are told apart; the others count as one that covers them.
    """
    for k in range(levels):
        at = k + shift
        if at == 0:
            continue
        if (
            near * (at + 1) <= far * at or k >= min(levels, apart) - 1
        ):  # from here on the intervals of ever larger k overlap
            _count_between(near / (levels - 1 + shift), far / at, n, largest, step, change)
            return
        _count_between(near / at, far / at, n, largest, step, change)


@borrowing
def _count_between(low: float, high: float, n: int, largest: float, step: float, change: I64) -> None:
    """Add n in the cells of the scales in (low, high]."""
    if high <= 0:
        return
    first = max(np.ceil(np.log(largest / high) / step), 0.0)
    last = np.floor(np.log(largest / low) / step) if low > 0 else CELLS - 1.0
    if first <= last and first < CELLS:
        change[int(first)] += n
        change[int(min(last, CELLS - 1.0)) + 1] -= n


@borrowing
def better(one: Found, other: Found) -> bool:
    """Whether `one` keeps more rows, or as many at less error."""
    return one.kept > other.kept or (one.kept == other.kept and one.error < other.error)


@compiled
def at_scale(
    rows: Rows, pos: Side, neg: Side, s: float, grid: Grid, rounding: int, least: int, kept: I64, up: F64, down: F64
) -> Found:
    """The best of all offsets at scale s; where none keeps `least` rows without the error. The rest: scratch."""
    s = np.float64(np.float32(s))
    kept_rows(rows, s, grid, rounding, kept)
    most = kept.max()
    first = int(np.argmax(kept == most))
    if most < least:
        return Found(most, np.inf, s, grid.least_below + first)
    fill_gains(pos, s, grid.span - grid.least_below, grid.up, up)
    fill_gains(neg, s, grid.most_below, grid.down, down)
    best = Found(most, np.inf, s, grid.least_below + first)
    fine = grid.span > EXACT_LEVELS
    every = 1 + len(kept) // EXACT_LEVELS if fine else 1
    for i in range(first, len(kept), every):
        if kept[i] == most:
            below = grid.least_below + i
            if fine:
                error = error_of(pos, neg, s, below, grid, up, down)
            else:
                error = pos.q + neg.q - up[grid.span - below] - down[below]
            if error < best.error:
                best = Found(most, error, s, below)
    return best


def scales_to_try(rows: Rows, grid: Grid) -> F64:
    """The scales worth counting exactly, descending: spread over those that may keep most rows, over the next best, and
    over all. None where rows differ too little for scales that float32 can hold."""
    sizes = np.abs(np.concatenate([rows.top, rows.second]))
    if grid.power_of_2:
        exponents = np.arange(np.ceil(np.log2(2 * sizes.max())), np.log2(sizes.max() / WIDEST), -1.0)
        return np.asarray(2.0 ** exponents[(exponents < 128) & (2.0**exponents >= grid.smallest)])
    largest = min(2 * sizes.max(), grid.largest)
    smallest = max(sizes[sizes > 0].min() / (grid.span + 1), largest / WIDEST, grid.smallest)
    step = max(np.log(largest / smallest), 1e-3) / CELLS
    bound = bound_curve(rows, grid, largest, step)
    part = min(max(WORK // len(rows.counts), LEAST_TRIED), MOST_TRIED) // 3
    ties = np.flatnonzero(bound == bound.max())
    rest = max(CELLS - len(ties) - part, 0)
    next_best = np.flatnonzero((bound >= np.partition(bound, rest)[rest]) & (bound < bound.max()))
    chosen = [_spread(cells, part) for cells in (ties, next_best, np.arange(CELLS))]
    scales = largest * np.exp(-step * np.unique(np.concatenate(chosen)))
    return np.asarray(scales[scales >= grid.smallest])


def _spread(cells: I64, most: int) -> I64:
    """At most so many of the cells, evenly."""
    return cells[np.linspace(0, len(cells) - 1, most).astype(np.int64)] if len(cells) > most else cells


@compiled
def most_kept(rows: Rows, pos: Side, neg: Side, grid: Grid, rounding: int, scales: F64) -> Found:
    """The scale and offset that keep most rows; of those that keep as many, the ones with the least squared error.

    scales: those to try, descending; around the best, unless they are powers of two, a refinement follows.
    """
    grid = narrowed(grid, pos, neg)
    levels = min(grid.span, EXACT_LEVELS) + 1
    up, down = np.zeros(levels), np.zeros(levels)
    kept = np.zeros(grid.most_below - grid.least_below + 1, np.int64)
    best = Found(-1, np.inf, 1.0, 0)
    at = 0
    for i in range(len(scales)):
        found = at_scale(rows, pos, neg, scales[i], grid, rounding, best.kept, kept, up, down)
        if better(found, best):
            best, at = found, i
    if grid.power_of_2:
        return best
    low, high = scales[min(at + 1, len(scales) - 1)], scales[max(at - 1, 0)]
    for _ in range(ROUNDS):
        step = (high - low) / CUTS
        for i in range(CUTS + 1):
            found = at_scale(rows, pos, neg, low + i * step, grid, rounding, best.kept, kept, up, down)
            if better(found, best):
                best = found
        low, high = max(low, best.scale - step), min(high, best.scale + step)
    return best
