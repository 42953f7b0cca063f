"""The kernel of `Margins`, compiled by numba: the two largest of each row. Twin of `reference.top_two`.

In a file of its own, and with its own copy of the helpers: see `jit.compiled`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibrant.sketches.cells import I32
from calibrant.sketches.kernels.jit import compiled
from calibrant.sketches.kernels.reference import HIGHEST, LOWEST

_TOP, _BOTTOM = np.int32(2**31 - 1), np.int32(-(2**31))
_MAGNITUDE, _SIGN, _ZERO = np.int32(0x7FFFFFFF), np.int32(31), np.int32(0)


@compiled
def top_two(bits: I32) -> tuple[I32, I32, NDArray[np.bool_]]:
    """See `reference.top_two`."""
    outer, length, inner = bits.shape
    rows = outer * inner
    top, second, least = np.empty(rows, np.int32), np.empty(rows, np.int32), np.empty(rows, np.int32)
    flat = bits.reshape(-1)
    for o in range(outer):
        start = o * length * inner
        if inner == 1:
            least[o], top[o], second[o] = _of_row(flat, start, start + length)
        else:
            _of_columns(flat, start, length, inner, o * inner, least, top, second)
    finite = np.empty(rows, np.bool_)
    for r in range(rows):
        finite[r] = least[r] >= LOWEST and top[r] <= HIGHEST
    return top, second, finite


@compiled
def _key(bits: np.int32) -> np.int32:
    """The ordered bits, those of 0.0 for -0.0."""
    key = np.int32(bits ^ np.int32(np.int32(bits >> _SIGN) & _MAGNITUDE))
    return _ZERO if bits == _BOTTOM else key


@compiled
def _of_row(bits: I32, start: int, stop: int) -> tuple[np.int32, np.int32, np.int32]:
    """Least, largest and second largest of a contiguous row, in two passes that both run in vectors."""
    least, top = _TOP, _BOTTOM
    for i in range(np.uint64(start), np.uint64(stop)):
        key = _key(bits[i])
        least, top = min(least, key), max(top, key)
    second, hits = _BOTTOM, _ZERO
    for i in range(np.uint64(start), np.uint64(stop)):
        key = _key(bits[i])
        hits = np.int32(hits + np.int32(key == top))
        second = max(second, _BOTTOM if key == top else key)
    return least, top, top if hits > 1 or stop - start == 1 else second


@compiled
def _of_columns(bits: I32, start: int, length: int, inner: int, at: int, least: I32, top: I32, second: I32) -> None:
    """The same of `inner` rows that take turns, side by side."""
    for i in range(at, at + inner):
        least[i], top[i], second[i] = _TOP, _BOTTOM, _BOTTOM
    for step in range(length):
        place = np.uint64(start + step * inner)
        for j in range(np.uint64(0), np.uint64(inner)):
            row, key = np.uint64(at) + j, _key(bits[place + j])
            second[row] = max(second[row], min(top[row], key))
            top[row] = max(top[row], key)
            least[row] = min(least[row], key)
    if length == 1:
        for i in range(at, at + inner):
            second[i] = top[i]
