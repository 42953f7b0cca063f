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
from calibrant.observers.kernels.jit import jit

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

STANDS_OUT = 5.0  # standard deviations of a count above what its neighbours predict: an atom
STANDS_OUT_SHARE = 0.1  # and at least that share of it: below, smooth densities bend as much
HEAVY = 1e-3  # of all the mass
SMALLEST_ATOM = 6.0  # so many in a bin between empty ones hardly come by chance


class Side(NamedTuple):
    """The values of one sign, without zeros. Pieces j of magnitude key base + i are first[i] <= j < first[i + 1].

    left, right, mass, tilt: (pieces,); left == right: an atom. Else the density runs straight from 1 - tilt of the mean
    one at the left end to 1 + tilt at the right. tail_n, tail_m, tail_q: (pieces + 1,), sums of mass, of mass times
    value, and of mass times value squared, over the pieces from j on. heavy: the atoms of HEAVY of the mass or more.
    top: the largest magnitude, or 0.
    """

    shift: int
    base: int
    first: I32
    left: F64
    right: F64
    mass: F64
    tilt: F64
    tail_n: F64
    tail_m: F64
    tail_q: F64
    heavy: I64
    top: float


@jit
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
    pos = make_side(keys[above:], counts[above:], positions[above:], cells.bits, lo, (n_lo if lo > 0 else 0), hi, n_hi)
    mirrored = (-1 - keys[:below][::-1]).astype(np.int32)
    counts, positions = counts[:below][::-1].copy(), positions[:below][::-1].copy()
    neg = make_side(mirrored, counts, positions, cells.bits, -hi, (n_hi if hi < 0 else 0), -lo, n_lo)
    return pos, neg, zeros


@jit
def make_side(
    keys: I32, counts: I64, positions: I64, bits: int, least: float, n_least: int, most: float, n_most: int
) -> Side:
    """One sign of a histogram as pieces.

    keys: ascending magnitude keys (key 0, zeros and what is next to them, must be left out); counts, positions: as
    they are in Histogram. least, most: exact ends in magnitude, hit n_least and n_most times; n_least = 0 where the
    smallest magnitude is not known exactly.
    """
    bins, shift, none = len(keys), 23 - bits, np.zeros(0)
    if bins == 0:
        return _finished(shift, 0, np.zeros(1, np.int32), none, none, none, none, 0.0)
    lower, upper = np.empty(bins), np.empty(bins)
    rest, place = counts.astype(np.float64), positions.astype(np.float64)
    for i in range(bins):
        lower[i], upper[i] = _edge(keys[i], bits), _edge(keys[i] + 1, bits)
    room = 2 * bins + 2  # a bin has two pieces at most, and each end one more
    left, right, mass, tilt = np.empty(room), np.empty(room), np.empty(room), np.zeros(room)
    whole_lower, width = lower.copy(), upper - lower
    _take_end(most, n_most, bins - 1, whole_lower, width, rest, place)
    upper[bins - 1] = most
    if n_least > 0 and least < most:
        _take_end(least, n_least, 0, whole_lower, width, rest, place)
        lower[0] = least
    first = np.zeros(keys[bins - 1] - keys[0] + 2, np.int32)
    first_key, j = int(np.int64(keys[0])), 0
    for i in range(bins):
        at = keys[i] - keys[0]
        for k in range(keys[i - 1] - keys[0] + 1 if i > 0 else 0, at + 1):
            first[k] = j
        if i == 0 and n_least > 0 and least < most:
            left[j], right[j], mass[j] = least, least, n_least
            j += 1
        if rest[i] > 0:
            mean = whole_lower[i] + (place[i] / rest[i] + 0.5) / 256 * width[i]
            mean = min(max(mean, lower[i]), upper[i])
            expected = _expected(i, keys, rest, lower, upper)
            j = _split(j, rest[i], mean, expected, lower[i], upper[i], left, right, mass, tilt)
        if i == bins - 1:
            left[j], right[j], mass[j] = most, most, n_most
            j += 1
    first[len(first) - 1] = j
    return _finished(shift, first_key, first, left[:j], right[:j], mass[:j], tilt[:j], most)


@jit
def _finished(shift: int, base: int, first: I32, left: F64, right: F64, mass: F64, tilt: F64, top: float) -> Side:
    """The side of these pieces, with its sums."""
    pieces = len(mass)
    tail_n, tail_m, tail_q = np.zeros(pieces + 1), np.zeros(pieces + 1), np.zeros(pieces + 1)
    for p in range(pieces - 1, -1, -1):
        a, width = left[p], right[p] - left[p]
        mean, square = 0.5 + tilt[p] / 6, 1 / 3 + tilt[p] / 6  # of the place in the piece, and of its square
        tail_n[p] = tail_n[p + 1] + mass[p]
        tail_m[p] = tail_m[p + 1] + mass[p] * (a + width * mean)
        tail_q[p] = tail_q[p + 1] + mass[p] * (a * a + 2 * a * width * mean + width * width * square)
    heavy, found = np.empty(pieces, np.int64), 0
    for p in range(pieces):
        if left[p] == right[p] and mass[p] >= HEAVY * tail_n[0]:
            heavy[found] = p
            found += 1
    return Side(shift, base, first, left, right, mass, tilt, tail_n, tail_m, tail_q, heavy[:found], top)


@jit
def tail(side: Side, b: float) -> tuple[float, float, float]:
    """Of the values with magnitude above b: how many, the sum of their magnitudes, and of their squares."""
    if b >= side.top:
        return 0.0, 0.0, 0.0
    i = (np.float32(b).view(np.int32) >> side.shift) - side.base
    if i < 0:
        return side.tail_n[0], side.tail_m[0], side.tail_q[0]
    if i >= len(side.first) - 1:
        return 0.0, 0.0, 0.0
    end = side.first[i + 1]
    n, m, q = side.tail_n[end], side.tail_m[end], side.tail_q[end]
    for p in range(side.first[i], end):
        a, width, tilt = side.left[p], side.right[p] - side.left[p], side.tilt[p]
        if b >= side.right[p] and b > a:
            continue
        t = (b - a) / width if b > a else 0.0
        rest, at = 1 - t, a + t * width
        part = side.mass[p] * rest * (1 + tilt * t)
        over = side.mass[p] * width * rest**2 / 2 * (1 + tilt * (1 + 2 * t) / 3)
        over_squared = side.mass[p] * width**2 * rest**3 * ((1 + tilt * (2 * t - 1)) / 3 + tilt * rest / 2)
        n += part
        m += part * at + over
        q += part * at * at + 2 * at * over + over_squared
    return n, m, q


@jit
def _edge(key: int, bits: int) -> float:
    """The least magnitude with that key (the one after the last finite key is 2**128)."""
    exponent, mantissa = key >> bits, key & ((1 << bits) - 1)
    if exponent == 0:
        return np.ldexp(float(mantissa), -126 - bits)
    return np.ldexp(float(mantissa + (1 << bits)), exponent - 127 - bits)


@jit
def _take_end(value: float, count: int, i: int, lower: F64, width: F64, rest: F64, place: F64) -> None:
    """Take the `count` elements at an exact end out of bin i."""
    rest[i] -= count
    place[i] -= count * min(np.floor((value - lower[i]) / width[i] * 256), 255.0)


@jit
def _expected(i: int, keys: I32, rest: F64, lower: F64, upper: F64) -> float:
    """The count that the two bins on either side let one expect in bin i, were the density smooth."""
    density = 0.0
    for side in (-1, 1):
        near, far = 0.0, 0.0
        for j in (i + side, i + 2 * side):
            if 0 <= j < len(keys) and upper[j] > lower[j]:
                if keys[j] == keys[i] + side:
                    near = rest[j] / (upper[j] - lower[j])
                elif keys[j] == keys[i] + 2 * side:
                    far = rest[j] / (upper[j] - lower[j])
        density = max(density, near, 2 * near - far)
    return density * (upper[i] - lower[i])


@jit
def _split(
    j: int,
    n: float,
    mean: float,
    expected: float,
    lower: float,
    upper: float,
    left: F64,
    right: F64,
    mass: F64,
    tilt: F64,
) -> int:
    """Write the pieces for n values in (lower, upper) with that mean, from piece j on; returns the next free one."""
    atom = n - expected
    if n == 1 or (atom > STANDS_OUT * np.sqrt(expected + 1) and atom > STANDS_OUT_SHARE * n and n >= SMALLEST_ATOM):
        atom = 1.0 if n == 1 else atom
        spread = n - atom
        at = mean + (mean - (lower + upper) / 2) * spread / atom
        at = min(max(at, lower), upper)
        left[j], right[j], mass[j] = at, at, atom
        if spread <= 0:
            return j + 1
        j, n, mean = j + 1, spread, (n * mean - atom * at) / spread
        mean = min(max(mean, lower), upper)
    left[j], right[j], mass[j] = lower, upper, n
    if upper > lower:
        tilt[j] = 6 * ((mean - lower) / (upper - lower) - 0.5)
    if abs(tilt[j]) > 1:  # no straight line has such a mean: evenly over the part of the bin that has it
        reach = min(mean - lower, upper - mean)
        left[j], right[j], tilt[j] = (
            (lower if tilt[j] < 0 else mean - reach),
            (mean + reach if tilt[j] < 0 else upper),
            0.0,
        )
    return j + 1
