"""A histogram's one sign as pieces of known mass: uniform stretches, and atoms (one value that many elements hit).

All in magnitudes, ascending. What the solvers ask, thousands of times, is how much mass lies above a boundary b, and
its moments; the key of b as a float32 leads to its bin's pieces in O(1), and sums from the top down give the rest.
"""

# mypy: disable-error-code="no-any-return"
# (to mypy an element of an array is Any)

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrant.observers.cells import Cells
from calibrant.sketches.kernels.jit import borrowing, compiled

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

STANDS_OUT = 5.0  # standard deviations of a count above what its neighbours predict: an atom
STANDS_OUT_SHARE = 0.1  # and at least that share of it: below, smooth densities bend as much
HEAVY = 1e-3  # of all the mass
SMALLEST_ATOM = 6.0  # so many in a bin between empty ones hardly come by chance

LEFT, RIGHT, MASS, TILT, N_ABOVE, M_ABOVE, Q_ABOVE = range(7)  # the columns of pieces
COLUMNS = 8  # a line of the cache: a look-up seldom needs more than one piece


class Side(NamedTuple):
    """The values of one sign, without zeros. Pieces j of magnitude key base + i are first[i] <= j < first[i + 1].

    pieces: (pieces, COLUMNS). LEFT, RIGHT, MASS, TILT; left == right: an atom. Else the density runs straight from
    1 - tilt of the mean one at the left end to 1 + tilt at the right. N_ABOVE, M_ABOVE, Q_ABOVE: sums of mass, of mass
    times value, and of mass times value squared, over the pieces that follow; n, m, q: over all. heavy: the atoms of
    HEAVY of the mass or more. top: the largest magnitude, or 0.
    """

    shift: int
    base: int
    first: I32
    pieces: F64
    heavy: I64
    n: float
    m: float
    q: float
    top: float


@compiled
def make_sides(cells: Cells, c: int) -> tuple[Side, Side, float]:
    """The positive side of channel c, the negative one, and how many zeros there are.

    What is next to zero (magnitude key 0: below 2**-126 by the number of bins in an octave) counts as zero.
    """
    begin, end = cells.starts[c], cells.starts[c + 1]
    keys, counts, positions = cells.keys[begin:end], cells.counts[begin:end], cells.positions[begin:end]
    below, above, zeros = 0, 0, 0.0
    for i in range(len(keys)):
        below += keys[i] < -1
        above += keys[i] < 1
        zeros += counts[i] if -1 <= keys[i] <= 0 else 0
    lo, hi, n_lo, n_hi = cells.lo[c], cells.hi[c], cells.n_lo[c], cells.n_hi[c]
    n_least = n_lo if above == 0 else 0  # else the smallest value of all lies below these bins
    pos = make_side(keys[above:], counts[above:], positions[above:], cells.bits, lo, n_least, hi, n_hi)
    n_least = n_hi if below == len(keys) else 0
    mirrored = (-1 - keys[:below][::-1]).astype(np.int32)
    counts, positions = counts[:below][::-1].copy(), positions[:below][::-1].copy()
    neg = make_side(mirrored, counts, positions, cells.bits, -hi, n_least, -lo, n_lo)
    return pos, neg, zeros


@compiled
def make_side(
    keys: I32, counts: I64, positions: I64, bits: int, least: float, n_least: int, most: float, n_most: int
) -> Side:
    """One sign of a histogram as pieces.

    keys: ascending magnitude keys (key 0, zeros and what is next to them, must be left out); counts, positions: as
    they are in Histogram. least, most: exact ends in magnitude, hit n_least and n_most times; n_least = 0 where the
    smallest magnitude is not known exactly.
    """
    bins, shift = len(keys), 23 - bits
    if bins == 0:
        return _finished(shift, 0, np.zeros(1, np.int32), np.zeros((0, COLUMNS)), 0.0)
    rest, density = counts.astype(np.float64), np.zeros(bins)
    last, two_ends = bins - 1, n_least > 0 and least < most
    rest[last] -= n_most
    rest[0] -= n_least if two_ends else 0
    for i in range(bins):
        lower = least if two_ends and i == 0 else _edge(keys[i], shift)
        upper = most if i == last else _edge(keys[i] + 1, shift)
        density[i] = rest[i] / (upper - lower) if upper > lower else 0.0
    pieces = np.empty((2 * bins + 2, COLUMNS))  # a bin has two pieces at most, and each end one more
    first = np.zeros(keys[last] - keys[0] + 2, np.int32)
    at, j = 0, 0
    for i in range(bins):
        while at <= keys[i] - keys[0]:
            first[at] = j
            at += 1
        edge = _edge(keys[i], shift)
        width = _edge(keys[i] + 1, shift) - edge
        lower, upper, place = edge, edge + width, np.float64(positions[i])
        if i == last:
            place -= _places(most, n_most, edge, width)
            upper = most
        if two_ends and i == 0:
            place -= _places(least, n_least, edge, width)
            lower = least
            j = _put(pieces, j, least, least, n_least, 0.0)
        if rest[i] > 0:
            mean = edge + (place / rest[i] + 0.5) / 256 * width
            mean = min(max(mean, lower), upper)
            j = _split(pieces, j, rest[i], mean, _expected(keys, density, i) * (upper - lower), lower, upper)
        if i == last:
            j = _put(pieces, j, most, most, n_most, 0.0)
    first[at] = j
    return _finished(shift, int(np.int64(keys[0])), first, pieces[:j], most)


@compiled
def _finished(shift: int, base: int, first: I32, pieces: F64, top: float) -> Side:
    """The side of these pieces, with its sums."""
    n = m = q = 0.0
    for p in range(len(pieces) - 1, -1, -1):
        pieces[p, N_ABOVE], pieces[p, M_ABOVE], pieces[p, Q_ABOVE] = n, m, q
        a, width, mass, tilt = pieces[p, LEFT], pieces[p, RIGHT] - pieces[p, LEFT], pieces[p, MASS], pieces[p, TILT]
        mean, square = 0.5 + tilt / 6, 1 / 3 + tilt / 6  # of the place in the piece, and of its square
        n += mass
        m += mass * (a + width * mean)
        q += mass * (a * a + 2 * a * width * mean + width * width * square)
    heavy, found = np.empty(len(pieces), np.int64), 0
    for p in range(len(pieces)):
        if pieces[p, LEFT] == pieces[p, RIGHT] and pieces[p, MASS] >= HEAVY * n:
            heavy[found] = p
            found += 1
    return Side(shift, base, first, pieces, heavy[:found].copy(), n, m, q, top)


@borrowing
def tail(side: Side, b: float) -> tuple[float, float, float]:
    """Of the values with magnitude above b: how many, the sum of their magnitudes, and of their squares."""
    if b >= side.top:
        return 0.0, 0.0, 0.0
    i = (np.float32(b).view(np.int32) >> side.shift) - side.base
    if i < 0:
        return side.n, side.m, side.q
    if i >= len(side.first) - 1:
        return 0.0, 0.0, 0.0
    end = side.first[i + 1]
    n, m, q = side.pieces[end - 1, N_ABOVE], side.pieces[end - 1, M_ABOVE], side.pieces[end - 1, Q_ABOVE]
    for p in range(side.first[i], end):
        a, right, mass, tilt = side.pieces[p, LEFT], side.pieces[p, RIGHT], side.pieces[p, MASS], side.pieces[p, TILT]
        if b >= right and b > a:
            continue
        width = right - a
        t = (b - a) / width if b > a else 0.0
        rest, at = 1 - t, a + t * width
        part = mass * rest * (1 + tilt * t)
        over = mass * width * rest**2 / 2 * (1 + tilt * (1 + 2 * t) / 3)
        over_squared = mass * width**2 * rest**3 * ((1 + tilt * (2 * t - 1)) / 3 + tilt * rest / 2)
        n += part
        m += part * at + over
        q += part * at * at + 2 * at * over + over_squared
    return n, m, q


@compiled
def counts_above(side: Side, points: F64) -> F64:
    """How many of the values have a magnitude above each of the points: the first of `tail`, for many at a time."""
    first, pieces, found = side.first, side.pieces, np.empty(len(points))
    for i in range(len(points)):
        b, n = points[i], 0.0
        if b < side.top:
            key = (np.float32(b).view(np.int32) >> side.shift) - side.base
            if key < 0:
                n = side.n
            elif key < len(first) - 1:
                end = first[key + 1]
                n = pieces[end - 1, N_ABOVE]
                for p in range(first[key], end):
                    left, right = pieces[p, LEFT], pieces[p, RIGHT]
                    if b < right or b <= left:
                        t = (b - left) / (right - left) if b > left else 0.0
                        n += pieces[p, MASS] * (1 - t) * (1 + pieces[p, TILT] * t)
        found[i] = n
    return found


@compiled
def _edge(key: int, shift: int) -> float:
    """The least magnitude with that key (the one after the last finite key is 2**128)."""
    edge = np.float64(np.int32(key << shift).view(np.float32))
    return edge if edge < np.inf else 2.0**128


@compiled
def _places(value: float, count: int, lower: float, width: float) -> float:
    """What `count` elements of that value have added to the positions of their bin."""
    return count * min(np.floor((value - lower) / width * 256), 255.0)


@borrowing
def _put(pieces: F64, j: int, left: float, right: float, mass: float, tilt: float) -> int:
    """Write piece j; returns the next free one."""
    pieces[j, LEFT], pieces[j, RIGHT], pieces[j, MASS], pieces[j, TILT] = left, right, mass, tilt
    return j + 1


@borrowing
def _expected(keys: I32, density: F64, i: int) -> float:
    """The density that the two bins on either side let one expect in bin i, were it smooth. Empty bins have 0."""
    key, expected = keys[i], 0.0
    for side in (-1, 1):
        near, far, j = 0.0, 0.0, i + side
        if 0 <= j < len(keys) and keys[j] == key + side:
            near, j = density[j], j + side
        if 0 <= j < len(keys) and keys[j] == key + 2 * side:
            far = density[j]
        expected = max(expected, near, 2 * near - far)
    return expected


@borrowing
def _split(pieces: F64, j: int, n: float, mean: float, expected: float, lower: float, upper: float) -> int:
    """Write the pieces for n values in (lower, upper) with that mean, from piece j on; returns the next free one."""
    atom = n - expected
    alone = n == 1
    if alone or (n >= SMALLEST_ATOM and atom > STANDS_OUT_SHARE * n and atom > STANDS_OUT * np.sqrt(expected + 1)):
        atom = 1.0 if alone else atom
        spread = n - atom
        at = mean + (mean - (lower + upper) / 2) * spread / atom
        at = min(max(at, lower), upper)
        j = _put(pieces, j, at, at, atom, 0.0)
        if spread <= 0:
            return j
        n, mean = spread, (n * mean - atom * at) / spread
        mean = min(max(mean, lower), upper)
    tilt = 6 * ((mean - lower) / (upper - lower) - 0.5) if upper > lower else 0.0
    if abs(tilt) <= 1:
        return _put(pieces, j, lower, upper, n, tilt)
    reach = min(mean - lower, upper - mean)  # no straight line has such a mean: evenly over the part that has it
    return _put(pieces, j, lower if tilt < 0 else mean - reach, mean + reach if tilt < 0 else upper, n, 0.0)
