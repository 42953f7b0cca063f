"""Cells: a histogram and its exact ends as flat arrays, one tensor or many channels, for loops and for Distribution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrant.sketches import Extremes, Histogram


class Cells(NamedTuple):
    """Channel c has the cells starts[c] to starts[c + 1] of keys, counts and positions (see `Histogram`).

    bits: mantissa bits of the keys. lo, hi: float64, n_lo, n_hi: int64, (channels,) as in `Extremes`.
    """

    bits: int
    starts: NDArray[np.int64]
    keys: NDArray[np.int32]
    counts: NDArray[np.int64]
    positions: NDArray[np.int64]
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    n_lo: NDArray[np.int64]
    n_hi: NDArray[np.int64]

    @classmethod
    def of(cls, histogram: Histogram, extremes: Extremes) -> Cells:
        """The cells of `histogram`, with the extremes of the same values and as many channels."""
        if histogram.channels == 1:
            extremes = extremes.per_tensor()
        return cls(
            histogram.bins.mantissa_bits,
            np.searchsorted(histogram.channel, np.arange(histogram.channels + 1)).astype(np.int64),
            histogram.keys,
            histogram.counts,
            histogram.positions,
            extremes.lo.astype(np.float64),
            extremes.hi.astype(np.float64),
            extremes.n_lo,
            extremes.n_hi,
        )

    @property
    def channels(self) -> int:
        return len(self.lo)
