"""Extremes: the exact ends of what was seen, and how often they were hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.sketches.arrays import as_floats
from calibrant.sketches.canonical import Canonical, refuse_difference
from calibrant.sketches.cells import I64
from calibrant.sketches.kernels.reference import NAN, NEG_INF, POS_INF, ZEROS, ordered
from calibrant.sketches.layout import Layout
from calibrant.sketches.tally import Tally

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Extremes(Canonical):
    """Smallest and largest finite value per channel, exactly, with the number of elements that equal them.

    lo, hi: float32 (channels,); +inf and -inf where a channel has no finite value. Never -0.0: that is 0.0.
    n_lo, n_hi: int64 (channels,); how many elements equal lo, and hi.
    size: elements of the whole tensor; zeros, nan, pos_inf, neg_inf: how many of them are 0.0 or -0.0, NaN, Inf.
    Where no axis is known there is one channel; where no value was seen there are none, and merging that is neutral.

    >>> e = Extremes.of(np.float32([3, -1, 3, np.nan]))
    >>> e.lo.tolist(), e.hi.tolist(), e.n_hi.tolist(), e.nan, e.finite
    ([-1.0], [3.0], [2], 1, 3)
    """

    lo: F32
    hi: F32
    n_lo: I64
    n_hi: I64
    size: int
    zeros: int
    nan: int
    pos_inf: int
    neg_inf: int

    @classmethod
    def empty(cls) -> Extremes:
        """The extremes of nothing."""
        none, nothing = np.zeros(0, np.float32), np.zeros(0, np.int64)
        return cls(none, none, nothing, nothing, 0, 0, 0, 0, 0)

    @classmethod
    def of(cls, x: Any, channel_axis: int | None = None) -> Extremes:
        """The extremes of `x` (see `Collector.add` for what it may be). DataError where it lacks the axis."""
        values = as_floats(x)
        layout = Layout.of(values.shape, channel_axis)
        tally = Tally(layout.channels, None, None)
        tally.add(values.reshape(-1), 0, layout)
        return cls.from_tally(tally)

    @classmethod
    def from_tally(cls, tally: Tally) -> Extremes:
        """What the tally has counted so far."""
        if tally.size == 0:
            return cls.empty()
        lo, hi = ordered(tally.ends).view(np.float32).copy()
        n_lo, n_hi = tally.hits.copy()
        zeros, nan, pos_inf, neg_inf = (int(tally.totals[i]) for i in (ZEROS, NAN, POS_INF, NEG_INF))
        return cls(lo, hi, n_lo, n_hi, tally.size, zeros, nan, pos_inf, neg_inf)

    @property
    def channels(self) -> int:
        """How many channels; 0 while nothing was seen."""
        return len(self.lo)

    @property
    def finite(self) -> int:
        """How many elements are neither NaN nor Inf."""
        return self.size - self.nan - self.pos_inf - self.neg_inf

    def merge(self, other: Extremes) -> Extremes:
        """The extremes of both. IncompatibleSketches where the numbers of channels differ."""
        if self.channels == 0 or other.channels == 0:
            return self if other.channels == 0 else other
        refuse_difference("Extremes", {"channels": (self.channels, other.channels)})
        lo, hi = np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi)
        return Extremes(
            lo,
            hi,
            self.n_lo * (self.lo == lo) + other.n_lo * (other.lo == lo),
            self.n_hi * (self.hi == hi) + other.n_hi * (other.hi == hi),
            self.size + other.size,
            self.zeros + other.zeros,
            self.nan + other.nan,
            self.pos_inf + other.pos_inf,
            self.neg_inf + other.neg_inf,
        )

    def per_tensor(self) -> Extremes:
        """The same with all channels folded into one."""
        if self.channels <= 1:
            return self
        lo, hi = self.lo.min(keepdims=True), self.hi.max(keepdims=True)
        n_lo = self.n_lo[self.lo == lo].sum(keepdims=True)
        n_hi = self.n_hi[self.hi == hi].sum(keepdims=True)
        return Extremes(lo, hi, n_lo, n_hi, self.size, self.zeros, self.nan, self.pos_inf, self.neg_inf)
