"""Distribution: a sketch read as the values it came from. What an observer of your own can solve from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.observers.cells import Cells
from calibrant.sketches import Extremes, Histogram

if TYPE_CHECKING:
    from calibrant.observers.kernels.pieces import Side

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distribution:
    """The values of one tensor, or one channel, as far as its sketch tells them apart.

    Exact: how many values lie on either side of a bin's edge, the smallest and the largest value and how often they
    occur. Within a bin: a value that occurs alone, or far more often than the bins around let one expect, is placed to
    2**-8 of the bin's width; the others are spread evenly over the part of the bin that has their mean.
    lo, hi: the exact ends; size: how many finite values there are; zeros: how many of them are zero.
    """

    pos: Side
    neg: Side
    zeros: float
    lo: float
    hi: float
    size: int

    @classmethod
    def of(cls, histogram: Histogram, extremes: Extremes) -> Distribution:
        """The distribution of a histogram and extremes of the same values, of one channel each."""
        return next(cls.per_channel(Cells.of(histogram, extremes)))

    @classmethod
    def per_channel(cls, cells: Cells) -> Iterator[Distribution]:
        """The distribution of each channel."""
        from calibrant.observers.kernels.pieces import make_sides

        for c in range(cells.channels):
            pos, neg, zeros = make_sides(cells, c)
            size = int(cells.counts[cells.starts[c] : cells.starts[c + 1]].sum())
            yield cls(pos, neg, zeros, float(cells.lo[c]), float(cells.hi[c]), size)

    def count(self, x: ArrayLike) -> F64:
        """How many values are at most x; of the shape of x."""
        from calibrant.observers.kernels.ranks import count_up_to

        points = np.asarray(x, np.float64)
        return count_up_to(self.pos, self.neg, self.zeros, points.reshape(-1)).reshape(points.shape)

    def quantile(self, p: float) -> float:
        """What numpy.quantile(values, p) would give, to within a bin: between the two values around rank p (size - 1).

        p: 0 to 1.
        """
        from calibrant.observers.kernels.ranks import quantile

        return float(quantile(self.pos, self.neg, self.zeros, self.lo, self.hi, self.size, p))

    def quantile_of_magnitude(self, p: float) -> float:
        """The same of |values|."""
        from calibrant.observers.kernels.ranks import quantile_of_magnitude

        return float(quantile_of_magnitude(self.pos, self.neg, self.size, p))
