"""LogBins: from a float32 value to the key of its bin, and back to the bin's edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.core import SettingError
from calibrant.sketches.canonical import Canonical
from calibrant.sketches.cells import I32, I64

MANTISSA_BITS = 23  # of a float32
SUB_BITS = 8  # mantissa bits below the key that are kept as a sum of positions
MOST_BITS = 12  # MOST_BITS + SUB_BITS <= MANTISSA_BITS, and 2**(9 + 12) cells are as many as anyone wants


@dataclass(frozen=True, slots=True, eq=False)
class LogBins(Canonical):
    """Bins cut by the bits of a float32: 2**mantissa_bits equal bins in every octave, over the whole exponent range.

    The magnitude key of x is bits(|x|) >> (23 - mantissa_bits). The (signed) key of x is its magnitude key where
    x >= 0 (-0.0 is 0.0), and -1 - magnitude key where x < 0, so that keys ascend with the value.
    A bin is at most 2**-mantissa_bits of its values wide; below 2**-126 bins have the width they have there.
    mantissa_bits: 1 to 12, else SettingError.

    >>> bins = LogBins(8)
    >>> key = bins.keys(np.float32([1.0, -1.0, 0.0, -0.0])).tolist(); key
    [32512, -32513, 0, 0]
    >>> bins.lower(key).tolist()[:2], bins.upper(key).tolist()[:2]
    ([1.0, -1.00390625], [1.00390625, -1.0])
    """

    mantissa_bits: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.mantissa_bits, int) or not 1 <= self.mantissa_bits <= MOST_BITS:
            raise SettingError(f"mantissa_bits must be an integer from 1 to {MOST_BITS}, got {self.mantissa_bits!r}")

    @property
    def magnitude_keys(self) -> int:
        """How many magnitude keys finite values can have."""
        return 255 << self.mantissa_bits

    def keys(self, x: ArrayLike) -> I32:
        """Signed keys of x (finite, taken as float32), int32 of its shape."""
        bits = np.asarray(x, np.float32).view(np.int32)
        magnitude = (bits & 0x7FFFFFFF) >> (MANTISSA_BITS - self.mantissa_bits)
        return np.asarray(np.where((bits < 0) & (bits != np.int32(-(2**31))), -1 - magnitude, magnitude), np.int32)

    def sub(self, x: ArrayLike) -> I32:
        """Where x lies in its bin, 0 to 255 in the direction of magnitude: the eight mantissa bits below the key."""
        bits = np.asarray(x, np.float32).view(np.int32)
        return np.asarray((bits >> (MANTISSA_BITS - SUB_BITS - self.mantissa_bits)) & 255, np.int32)

    def lower(self, keys: ArrayLike) -> NDArray[np.float64]:
        """The bin's edge towards -inf; no value of the bin lies below it."""
        signed = np.asarray(keys, np.int64)
        return np.asarray(np.where(signed >= 0, self._edge(signed), -self._edge(-signed)), np.float64)

    def upper(self, keys: ArrayLike) -> NDArray[np.float64]:
        """The bin's edge towards +inf, also the next bin's `lower`; the topmost one is 2**128."""
        return self.lower(np.asarray(keys, np.int64) + 1)

    def _edge(self, magnitude: I64) -> NDArray[np.float64]:
        """The least magnitude with that key, in float64 (where the key after the last finite one is 2**128)."""
        clipped = np.clip(magnitude, 0, self.magnitude_keys)
        exponent, mantissa = clipped >> self.mantissa_bits, clipped & ((1 << self.mantissa_bits) - 1)
        normal = exponent > 0
        significand = mantissa + np.where(normal, 1 << self.mantissa_bits, 0)
        return np.asarray(
            np.ldexp(significand.astype(np.float64), np.where(normal, exponent, 1) - 127 - self.mantissa_bits)
        )


def split_index(index: I64, mantissa_bits: int) -> I32:
    """Signed keys of table indices. A table's index is bits(x) >> (23 - mantissa_bits), sign bit included."""
    half = 1 << (8 + mantissa_bits)
    return np.asarray(np.where(index < half, index, half - 1 - index), np.int32)
