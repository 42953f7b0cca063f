"""The scale and offset with the least squared error, found on pieces.

With levels ..., -s, 0, s, 2s, ... and H(b) the sum of x - b over the values x above b, raising the highest level from
ks to (k+1)s lowers the sum of squared errors by 2s H((k + 1/2)s): one look-up per level. So for one scale s the error
of every possible number of levels on either side of zero, which is to say of every offset, costs one look-up per level.
"""

# mypy: disable-error-code="no-any-return"
# (to mypy an element of an array is Any)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from calibrant.observers.cells import Cells
from calibrant.observers.kernels.lowest import lowest
from calibrant.observers.kernels.pieces import (
    F64,
    I64,
    LEFT,
    M_ABOVE,
    MASS,
    N_ABOVE,
    RIGHT,
    TILT,
    Side,
    make_sides,
    tail,
)
from calibrant.sketches.kernels.jit import borrowing, compiled

EXACT_LEVELS = 1024  # beyond, steps are finer than bins: errors count as uniform, but for those of heavy atoms
WORTH = 0.99  # and then a scale must be that much better than the one that covers all to replace it
STEPS_PER_PERIOD = 8  # where all is covered: an atom at x meets a level every time x / s grows by 1
STEPS_PER_LEVEL = 4  # where the grid clips: candidates are 1 / (4 levels) apart, at most MOST_STEP
MOST_STEP, LEAST_STEP = 2e-3, 4e-4
MOST_CANDIDATES = 1 << 14
FEW = 16  # offsets that are all tried
STRIDE = 64  # between the candidates that are computed first
ROUNDED = 1e-12  # of the sums: what they may be off by
_ONE = np.uint64(1)  # unsigned: a signed index would be checked for counting from the end
STARTS, ROUNDS, CUTS = 8, 4, 16  # the refinement: of so many local minima, so often, each time into so many parts


class Grid(NamedTuple):
    """An integer grid: `span` steps in all, of which `below` lie below zero, least_below <= below <= most_below.

    up, down: what is added to k for the boundary between levels k and k + 1 away from zero, above and below zero:
    1/2 and 1/2 when rounding to the nearest. spread: the mean squared error of a uniform value, in units of s**2.
    power_of_2: whether scales are powers of two. smallest, largest: the scales allowed. fineness: how close candidates
    lie, 1 for a whole tensor; less where there are many channels, known less well.
    """

    span: int
    least_below: int
    most_below: int
    up: float
    down: float
    spread: float
    power_of_2: bool
    smallest: float
    largest: float
    fineness: float = 1.0


@compiled
def narrowed(grid: Grid, pos: Side, neg: Side) -> Grid:
    """The grid with all its steps on the one side where values are, if so; else the same."""
    least, most = grid.least_below, grid.most_below
    if pos.top == 0:
        least = most
    elif neg.top == 0:
        most = least
    return Grid(
        grid.span,
        least,
        most,
        grid.up,
        grid.down,
        grid.spread,
        grid.power_of_2,
        grid.smallest,
        grid.largest,
        grid.fineness,
    )


@borrowing
def fill_gains(side: Side, s: float, levels: int, shift: float, gains: F64) -> None:
    """gains[k], k <= min(levels, EXACT_LEVELS): how much lower the sum of squared errors is with k levels than with 0.

    The look-up of a boundary b is `tail`'s, written out: this is where the search spends its time.
    """
    first, pieces, top = side.first, side.pieces, side.top
    levels, off_centre, bins = min(levels, EXACT_LEVELS), (0.5 - shift) * s, len(first) - 1
    gains[0] = total = 0.0
    for k in range(levels):
        b = (k + shift) * s
        if b >= top:
            gains[k + 1 : levels + 1] = total
            return
        i = (np.float32(b).view(np.int32) >> side.shift) - side.base
        if i < 0:
            n, over = side.n, side.m - b * side.n
        elif i >= bins:
            n, over = 0.0, 0.0
        else:
            end = np.uint64(first[np.uint64(i + 1)])
            n = pieces[end - _ONE, N_ABOVE]
            over = pieces[end - _ONE, M_ABOVE] - b * n
            for p in range(np.uint64(first[np.uint64(i)]), end):
                left, right, mass, tilt = pieces[p, LEFT], pieces[p, RIGHT], pieces[p, MASS], pieces[p, TILT]
                width = right - left
                if b < left:
                    n += mass
                    over += mass * (left - b + width * (0.5 + tilt / 6))
                elif b < right:
                    t = (b - left) / width
                    n += mass * (1 - t) * (1 + tilt * t)
                    over += mass * width * (1 - t) ** 2 / 2 * (1 + tilt * (1 + 2 * t) / 3)
        total += 2 * s * (over - off_centre * n)
        gains[k + 1] = total


@borrowing
def side_error(side: Side, s: float, levels: int, shift: float, spread: float, gains: F64) -> float:
    """The sum of squared errors of one side with that many levels."""
    if levels <= EXACT_LEVELS:
        return side.q - gains[levels]
    start, end = EXACT_LEVELS * s, levels * s
    n, m, q = tail(side, start)
    error = side.q - gains[EXACT_LEVELS] - (q - 2 * start * m + start * start * n)
    clipped, m, q = tail(side, end)
    error += (n - clipped) * s * s * spread + (q - 2 * end * m + end * end * clipped)
    for p in side.heavy:
        x = side.pieces[p, LEFT]
        if start < x <= end:
            off = x - s * np.floor(x / s + 1 - shift)
            error += side.pieces[p, MASS] * (off * off - s * s * spread)
    return error


@borrowing
def error_of(pos: Side, neg: Side, s: float, below: int, grid: Grid, up: F64, down: F64) -> float:
    """The sum of squared errors with `below` of the grid's steps below zero; up, down: the gains at s."""
    error = side_error(pos, s, grid.span - below, grid.up, grid.spread, up)
    return error + side_error(neg, s, below, grid.down, grid.spread, down)


@borrowing
def best_offset(pos: Side, neg: Side, s: float, grid: Grid, up: F64, down: F64) -> tuple[float, int]:
    """The least sum of squared errors at scale s, and with how many steps below zero. up, down: scratch."""
    fill_gains(pos, s, grid.span - grid.least_below, grid.up, up)
    fill_gains(neg, s, grid.most_below, grid.down, down)
    first, last = grid.least_below, grid.most_below
    while grid.span > EXACT_LEVELS and last - first > FEW:  # ever higher levels gain ever less: the error is convex
        middle = (first + last) // 2
        here = error_of(pos, neg, s, middle, grid, up, down)
        if here < error_of(pos, neg, s, middle + 1, grid, up, down):
            last = middle
        else:
            first = middle
    best, at = np.inf, first
    if grid.span > EXACT_LEVELS:
        for below in range(first, last + 1):
            error = error_of(pos, neg, s, below, grid, up, down)
            if error < best:
                best, at = error, below
        return best, at
    most = -np.inf
    for below in range(first, last + 1):
        gain = up[grid.span - below] + down[below]
        if gain > most:
            most, at = gain, below
    return pos.q + neg.q - most, at


@borrowing
def clip_error(pos: Side, neg: Side, s: float, grid: Grid) -> float:
    """Less than what any offset at scale s, or at a smaller one, must clip away."""
    top, bottom = (grid.span - grid.least_below) * s, grid.most_below * s
    n, m, q = tail(pos, top)
    error = q - 2 * top * m + top * top * n
    n, m, q = tail(neg, bottom)
    return error + q - 2 * bottom * m + bottom * bottom * n


@compiled
def candidates(pos: Side, neg: Side, grid: Grid) -> F64:
    """Scales to try, descending: from where all becomes zero, past where all is covered, down to where clipping alone
    costs more than covering all (one step in STRIDE looks)."""
    top = max(pos.top, neg.top)
    found = np.empty(MOST_CANDIDATES)
    n = 0
    if grid.power_of_2:
        s = 2.0 ** np.ceil(np.log2(2 * top))
        while s >= grid.smallest and n < MOST_CANDIDATES:
            if s <= grid.largest:
                found[n] = s
                n += 1
            s /= 2
        return found[:n]
    if grid.least_below == grid.most_below:
        cover = max(pos.top / max(grid.span - grid.most_below, 0.5), neg.top / max(grid.most_below, 0.5))
    else:
        cover = (pos.top + neg.top) / grid.span
    if grid.span <= EXACT_LEVELS // 2:
        last = top / cover
        steps = int(STEPS_PER_PERIOD * grid.fineness * last) + 1
        for i in range(steps):
            found[n] = top / (0.5 + (last - 0.5) * i / steps)
            n += 1
    else:
        for i in range(32):
            found[n] = cover * (1 + (32 - i) * 1e-3)
            n += 1
    step = 1 / (STEPS_PER_LEVEL * (grid.span + 1))
    ratio = 1 - min(max(step, LEAST_STEP), MOST_STEP) / grid.fineness
    s, more_than_covering = cover, (pos.n + neg.n) * (2 * cover) ** 2  # nothing is further than that from its level
    while n < MOST_CANDIDATES and s >= grid.smallest:
        if n % STRIDE == 0 and clip_error(pos, neg, s, grid) > more_than_covering:
            break
        found[n] = s
        n += 1
        s *= ratio
    return np.minimum(found[:n], grid.largest)


@compiled
def search(pos: Side, neg: Side, grid: Grid, start: float, start_below: int) -> tuple[float, int]:
    """Scale and steps below zero with the least squared error of all; never worse than where it starts."""
    grid = narrowed(grid, pos, neg)
    levels = min(grid.span, EXACT_LEVELS) + 1
    up, down = np.zeros(levels), np.zeros(levels)
    scales = candidates(pos, neg, grid)
    errors = survey(pos, neg, grid, scales, up, down)
    fill_gains(pos, start, grid.span - start_below, grid.up, up)
    fill_gains(neg, start, start_below, grid.down, down)
    best = error_of(pos, neg, start, start_below, grid, up, down) * (1 - 1e-9 if grid.span <= EXACT_LEVELS else WORTH)
    scale, below = start, start_below
    least = least_around(pos, neg, grid, scales, errors)
    for i in local_minima(errors, least):
        if least[i] > best:
            continue
        s = scales[i]
        if not grid.power_of_2:
            s = refine(pos, neg, s, scales[max(i - 1, 0)], scales[min(i + 1, len(scales) - 1)], grid, up, down, best)
        s = np.float64(np.float32(s))
        error, at = best_offset(pos, neg, s, grid, up, down)
        if error < best:
            best, scale, below = error, s, at
    return scale, below


@compiled
def survey(pos: Side, neg: Side, grid: Grid, scales: F64, up: F64, down: F64) -> F64:
    """The errors of `scales`, descending; inf where neither the scale nor one next to it can be the best of all.

    Every STRIDE-th is computed, then those between, halving the stride, where `least_between` lets one hope. It ends
    where clipping alone costs more than the best found.
    """
    errors = np.full(len(scales), np.inf)
    stride, end, least = STRIDE if bounded(grid) else 1, len(scales) - 1, np.inf
    for i in range(0, end + stride, stride):
        i = min(i, end)
        clipped = clip_error(pos, neg, scales[i], grid) > least
        if clipped and stride == 1:
            return errors
        errors[i], _ = best_offset(pos, neg, scales[i], grid, up, down)
        least = min(least, errors[i])
        if clipped:
            end = i
            break
    while stride > 1:
        stride //= 2
        for i in range(stride, end, 2 * stride):
            left, right = i - stride, min(i + stride, end)
            if least_between(pos, neg, scales[left], errors[left], scales[right], errors[right]) <= least:
                errors[i], _ = best_offset(pos, neg, scales[i], grid, up, down)
                least = min(least, errors[i])
    return errors


@compiled
def bounded(grid: Grid) -> bool:
    """Whether `least_between` holds: every value goes to the nearest level, and is counted where it is."""
    return grid.up == 0.5 and grid.span <= EXACT_LEVELS and not grid.power_of_2


@borrowing
def least_between(pos: Side, neg: Side, s: float, error: float, t: float, error_t: float) -> float:
    """No scale from s to t has less error than this; inf where one of their errors is.

    With integers q for the values x, the error is |x|^2 - s (2 x.q - s |q|^2), and rounding takes the best q. So what a
    scale gains, over s, is the largest of functions affine in s: convex, and between two scales below its chord.
    """
    total = pos.q + neg.q
    if error == np.inf or error_t == np.inf:
        return np.inf
    if s == t:
        return error
    gain, gain_t = (total - error) / s, (total - error_t) / t
    slope = (gain_t - gain) / (t - s)
    most = max(total - error, total - error_t)
    if slope < 0:
        peak = min(max((s - gain / slope) / 2, min(s, t)), max(s, t))
        most = max(most, peak * (gain + slope * (peak - s)))
    return total - most - ROUNDED * (total + max(pos.top * pos.m, neg.top * neg.m))


@compiled
def least_around(pos: Side, neg: Side, grid: Grid, scales: F64, errors: F64) -> F64:
    """For each of the scales: no scale between its neighbours has less error than this; inf where it has no error."""
    if not bounded(grid):
        return np.where(errors < np.inf, -np.inf, np.inf)
    least = errors.copy()
    for i in range(len(errors) - 1):
        if errors[i] < np.inf and errors[i + 1] < np.inf:
            between = least_between(pos, neg, scales[i], errors[i], scales[i + 1], errors[i + 1])
            least[i], least[i + 1] = min(least[i], between), min(least[i + 1], between)
    return least


@compiled
def local_minima(errors: F64, least: F64) -> I64:
    """Where `errors` is least among its neighbours: the STARTS lowest of these, lowest first.

    least: no scale nearby has less error; where that is more than the lowest of all, one need not look.
    """
    minima, lowest_of_all = np.full(len(errors), np.inf), np.inf
    for error in errors:
        lowest_of_all = min(lowest_of_all, error)
    for i in range(len(errors)):
        left = errors[i - 1] if i > 0 else np.inf
        right = errors[i + 1] if i + 1 < len(errors) else np.inf
        if least[i] <= lowest_of_all and errors[i] <= left and errors[i] <= right:
            minima[i] = errors[i]
    return lowest(minima, STARTS)


@compiled
def refine(
    pos: Side, neg: Side, s: float, high: float, low: float, grid: Grid, up: F64, down: F64, best: float
) -> float:
    """The best scale between low and high; s lies between them. It ends where it cannot come below `best` any more."""
    least, _ = best_offset(pos, neg, s, grid, up, down)
    errors = np.empty(CUTS + 1)
    for _ in range(ROUNDS):
        step, hope = (high - low) / CUTS, np.inf
        for i in range(CUTS + 1):
            tried = low + i * step
            errors[i], _ = best_offset(pos, neg, tried, grid, up, down)
            if errors[i] < least:
                least, s = errors[i], tried
            if i > 0 and bounded(grid):
                hope = min(hope, least_between(pos, neg, tried, errors[i], tried - step, errors[i - 1]))
        if bounded(grid) and hope > best:
            break
        low, high = max(low, s - step), min(high, s + step)
    return s


@compiled
def solve_channels(cells: Cells, grid: Grid, scale: F64, below: I64) -> None:
    """`search` for every channel, in place.

    scale, below: (channels,); what they hold is where the search starts, and a scale of 0 is left alone.
    """
    for c in range(len(scale)):
        if scale[c] > 0:
            pos, neg, _ = make_sides(cells, c)
            scale[c], below[c] = search(pos, neg, grid, scale[c], below[c])


@compiled
def errors_of_channels(cells: Cells, grid: Grid, scale: F64, below: I64) -> tuple[float, float]:
    """The sum of squared errors over all channels, and the sum of squares. scale, below: (channels,), not changed."""
    levels = min(grid.span, EXACT_LEVELS) + 1
    up, down = np.zeros(levels), np.zeros(levels)
    error = power = 0.0
    for c in range(len(scale)):
        pos, neg, _ = make_sides(cells, c)
        fill_gains(pos, scale[c], grid.span - below[c], grid.up, up)
        fill_gains(neg, scale[c], below[c], grid.down, down)
        error += error_of(pos, neg, scale[c], below[c], grid, up, down)
        power += pos.q + neg.q
    return error, power
