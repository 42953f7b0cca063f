"""The kernel of `Margins`, compiled by numba: the two largest of each row. Twin of `reference.top_two`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibrant.sketches.cells import I32
from calibrant.sketches.kernels.jit import compiled
from calibrant.sketches.kernels.ordered import BOTTOM, TOP, ZERO, key, unsigned
from calibrant.sketches.kernels.reference import HIGHEST, LOWEST


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
def _of_row(bits: I32, start: int, stop: int) -> tuple[np.int32, np.int32, np.int32]:
    """Least, largest and second largest of a contiguous row, in two passes that both run in vectors."""
    least, top = TOP, BOTTOM
    for i in unsigned(start, stop):
        here = key(bits[i])
        least, top = min(least, here), max(top, here)
    second, hits = BOTTOM, ZERO
    for i in unsigned(start, stop):
        here = key(bits[i])
        hits = np.int32(hits + np.int32(here == top))
        second = max(second, BOTTOM if here == top else here)
    return least, top, top if hits > 1 or stop - start == 1 else second


@compiled
def _of_columns(bits: I32, start: int, length: int, inner: int, at: int, least: I32, top: I32, second: I32) -> None:
    """The same of `inner` rows that take turns, side by side."""
    for i in range(at, at + inner):
        least[i], top[i], second[i] = TOP, BOTTOM, BOTTOM
    for step in range(length):
        place = np.uint64(start + step * inner)
        for j in unsigned(0, inner):
            row, here = np.uint64(at) + j, key(bits[place + j])
            second[row] = max(second[row], min(top[row], here))
            top[row] = max(top[row], here)
            least[row] = min(least[row], here)
    if length == 1:
        for i in range(at, at + inner):
            second[i] = top[i]
