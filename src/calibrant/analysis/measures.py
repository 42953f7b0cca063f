"""How far one set of numbers is from another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike


def sqnr_db(reference: Iterable[ArrayLike], found: Iterable[ArrayLike]) -> float:
    """Signal to quantization noise ratio in dB: 10 log10 of the power of the reference over that of the difference.

    Powers are summed over all arrays of both, which come in pairs of one shape. inf where nothing differs (also where
    there is nothing at all), -inf where the reference is zero and the other is not; NaN or Inf in either: NaN.

    >>> round(sqnr_db([[1.0, -1.0]], [[1.1, -0.9]]), 6)
    20.0
    """
    signal = noise = 0.0
    for one, other in zip(reference, found, strict=True):
        exact = np.asarray(one, np.float64)
        signal += float((exact**2).sum())
        noise += float(((exact - np.asarray(other, np.float64)) ** 2).sum())
    if not np.isfinite(signal + noise):
        return float("nan")
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")
