"""How far one set of numbers is from another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHUNK = 1 << 15  # elements at once: their float64 copies stay in a core's own cache


@dataclass(slots=True)
class Difference:
    """How far a value is from what it should be, over everything that was added.

    elements: how many numbers were seen. broken: those of which either is NaN or Inf and the other is not the same;
        what is NaN, or the same infinity, in both differs in nothing and is left out of all sums.
    signal, power: sums of squares of the exact and of the found numbers. product: the sum of their products.
    noise: the sum of the squared differences. largest: of the absolute differences.

    Sums are float64, in a fixed order: the same arrays, added in the same order, give the same bits on any number of
    threads. Memory does not grow with what is added.

    >>> difference = Difference()
    >>> difference.add([1.0, -1.0], [1.1, -0.9])
    >>> round(difference.sqnr_db, 6), round(difference.mse, 6), round(difference.largest, 6)
    (20.0, 0.01, 0.1)
    """

    elements: int = 0
    broken: int = 0
    signal: float = 0.0
    power: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    largest: float = 0.0

    def add(self, exact: ArrayLike, found: ArrayLike) -> None:
        """Take in two arrays of one shape, of any real dtype. Raises ValueError where the shapes differ."""
        one, other = np.asarray(exact), np.asarray(found)
        if one.shape != other.shape:
            raise ValueError(f"values to compare come in pairs of one shape, got {one.shape} and {other.shape}")
        one, other = one.reshape(-1), other.reshape(-1)
        for start in range(0, one.size, CHUNK):
            ends = slice(start, start + CHUNK)
            self._add(one[ends].astype(np.float64), other[ends].astype(np.float64))
        self.elements += one.size

    def _add(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        with np.errstate(invalid="ignore"):
            difference = one - other
        if not np.isfinite(difference).all():
            finite = np.isfinite(one) & np.isfinite(other)
            self.broken += int((~finite & (one != other) & ~(np.isnan(one) & np.isnan(other))).sum())
            one, other, difference = one[finite], other[finite], difference[finite]
        # not np.dot: how BLAS splits a sum depends on the number of threads
        self.signal += float(np.square(one).sum())
        self.power += float(np.square(other).sum())
        self.product += float((one * other).sum())
        self.noise += float(np.square(difference).sum())
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))

    @property
    def relative(self) -> float:
        """Noise over signal: 0 where nothing differs, inf where the exact numbers are all 0 and the others are not.

        NaN where something is broken.
        """
        if self.broken:
            return float("nan")
        if self.noise == 0:
            return 0.0
        return self.noise / self.signal if self.signal else float("inf")

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio, 10 log10(signal / noise), in dB.

        inf where nothing differs (also where there is nothing at all), -inf where the exact numbers are all 0 and the
        others are not, NaN where something is broken.
        """
        if self.broken:
            return float("nan")
        if self.noise == 0:
            return float("inf")
        return float(10 * np.log10(self.signal / self.noise)) if self.signal else float("-inf")

    @property
    def cosine(self) -> float:
        """The cosine of the angle between both; 1 where both are 0, 0 where one is, NaN where something is broken."""
        if self.broken:
            return float("nan")
        if not (self.signal and self.power):
            return 1.0 if self.signal == self.power else 0.0
        return float(self.product / (self.signal**0.5 * self.power**0.5))

    @property
    def mse(self) -> float:
        """Mean squared error; 0 where there is nothing, NaN where something is broken."""
        return float("nan") if self.broken else self.noise / max(1, self.elements)


def sqnr_db(reference: Iterable[ArrayLike], found: Iterable[ArrayLike]) -> float:
    """`Difference.sqnr_db` over all arrays of both, which come in pairs of one shape.

    >>> round(sqnr_db([[1.0, -1.0]], [[1.1, -0.9]]), 6)
    20.0
    """
    difference = Difference()
    for one, other in zip(reference, found, strict=True):
        difference.add(one, other)
    return difference.sqnr_db
