"""Ordered bits in kernels: see `reference`."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibrant.sketches.kernels.jit import compiled

TOP, BOTTOM = np.int32(2**31 - 1), np.int32(-(2**31))  # BOTTOM is also the bits of -0.0
MAGNITUDE, ZERO = np.int32(0x7FFFFFFF), np.int32(0)
_SIGN = np.int32(31)


@compiled
def ordered(bits: np.int32) -> np.int32:
    """Bits to ordered bits, and back."""
    return np.int32(bits ^ np.int32(np.int32(bits >> _SIGN) & MAGNITUDE))


@compiled
def key(bits: np.int32) -> np.int32:
    """Ordered bits, of -0.0 those of 0.0."""
    return ZERO if bits == BOTTOM else ordered(bits)


@compiled
def unsigned(start: int, stop: int) -> Any:
    """A range whose indices are not checked for counting from the end of an array."""
    return range(np.uint64(start), np.uint64(stop))
