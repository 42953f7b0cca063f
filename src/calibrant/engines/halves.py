"""Which half of the samples a sample belongs to: its content decides."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.engines.samples import Feed

WORD = 1 << 64
_MIXER = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads what differs in low bits over the high ones


def content_of(feed: Feed) -> int:
    """64 bits that follow from a sample's arrays and their names."""
    total = 0
    for name in sorted(feed):
        total = (total + _sum_of_bits(feed[name])) * _MIXER % WORD
    return (total ^ total >> 29) * _MIXER % WORD


def half_of(feed: Feed) -> int:
    """0 for an even sample, 1 for an odd one: the topmost bit of its content.

    So neither its place among the samples nor who computes it makes a difference, and tables of any parts of the
    samples merge into the same halves. Of many samples each half gets about as many; equal ones are in the same half.
    """
    return content_of(feed) >> 63


def _sum_of_bits(array: NDArray[Any]) -> int:
    """The sum of its bits, taken as unsigned integers, modulo 2**64."""
    if array.dtype.kind == "O":
        return sum(zlib.crc32(text if isinstance(text, bytes) else text.encode()) for text in array.flat)
    memory = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    words = memory[: memory.size // 8 * 8].view("<u8")
    rest = int.from_bytes(memory[words.nbytes :].tobytes(), "little")
    return int(words.sum(dtype=np.uint64)) + rest
