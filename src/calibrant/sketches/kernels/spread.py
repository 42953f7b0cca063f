"""The kernel that spreads coarse cells over the table of finer ones: a twin of `reference.spread` in numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibrant.sketches.cells import I64
from calibrant.sketches.kernels.jit import compiled
from calibrant.sketches.kernels.ordered import BOTTOM

F64 = NDArray[np.float64]

_LARGEST = float(np.finfo(np.float32).max)
_TINY = float(np.finfo(np.float64).tiny)


@compiled
def spread(
    ends: tuple[F64, F64], mean: F64, counts: I64, factors: F64, parts: int, mantissa_bits: int
) -> tuple[I64, I64]:
    """See `reference.spread`."""
    sizes, sums = np.zeros(1 << (9 + mantissa_bits), np.int64), np.zeros(1 << (9 + mantissa_bits), np.int64)
    half, shift = parts // 2, np.int32(15 - mantissa_bits)
    single = np.empty(1, np.float32)
    bits = single.view(np.int32)
    for cell in range(len(mean)):
        lower, upper = ends[0][cell], ends[1][cell]
        width = max(upper - lower, _TINY)
        share, done = 0.0, np.int64(0)
        for part in range(parts):
            below = part < half
            start, width_here = (lower, mean[cell] - lower) if below else (mean[cell], upper - mean[cell])
            share += ((upper - mean[cell]) if below else (mean[cell] - lower)) / width / half
            upto = np.int64(np.rint(share * counts[cell])) if part + 1 < parts else counts[cell]
            here, done = upto - done, upto
            if here > 0:
                x = start + (part % half + 0.5) / half * width_here
                single[0] = min(max(x / factors[cell], -_LARGEST), _LARGEST)
                fine = (np.int32(0) if bits[0] == BOTTOM else bits[0]) >> shift
                place = np.int64(fine >> np.int32(8)) & (len(sizes) - 1)
                sizes[place] += here
                sums[place] += here * np.int64(fine & np.int32(255))
    return sizes, sums
