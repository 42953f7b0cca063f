"""The seven rounding policies, on arrays."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.core.policy import RoundingPolicy

Array = NDArray[np.float64]


def _half_away(x: Array) -> Array:
    return np.asarray(np.copysign(np.floor(np.abs(x) + 0.5), x))


_RULES: dict[RoundingPolicy, Callable[[Array], Array]] = {
    RoundingPolicy.ROUND_HALF_EVEN: np.rint,
    RoundingPolicy.ROUND_HALF_UP: lambda x: np.asarray(np.floor(x + 0.5)),
    RoundingPolicy.ROUND_HALF_DOWN: lambda x: np.asarray(np.ceil(x - 0.5)),
    RoundingPolicy.ROUND_HALF_TOWARDS_ZERO: lambda x: np.asarray(np.copysign(np.ceil(np.abs(x) - 0.5), x)),
    RoundingPolicy.ROUND_HALF_FAR_FORM_ZERO: _half_away,
    RoundingPolicy.ROUND_TO_NEAR_INT: _half_away,
    RoundingPolicy.ROUND_UP: np.ceil,
}


def round_array(x: ArrayLike, policy: RoundingPolicy = RoundingPolicy.ROUND_HALF_EVEN) -> Array:
    """Round every value of `x` to an integer.

    x: any shape; float32 values are exact in the float64 in which this works, so `x + 0.5` never rounds up by itself.
    Returns float64 of the same shape. NaN and Inf stay what they are.

    >>> [float(round_array(-2.5, p)) for p in (RoundingPolicy.ROUND_HALF_EVEN, RoundingPolicy.ROUND_HALF_DOWN)]
    [-2.0, -3.0]
    """
    return _RULES[policy](np.asarray(x, np.float64))
