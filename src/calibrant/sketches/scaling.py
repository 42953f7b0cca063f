"""The sketch of a value whose channels are divided by factors, without seeing the value again.

Bins are relative to the values in them, so what is remembered of each channel of x tells nearly as well what would be
remembered of x / factor. A few coarse bins of each channel are enough: where hundreds of channels are laid over each
other, at factors of their own, the edges of none are seen. So each is spread over finer ones, evenly on either side of
the mean of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calibrant.sketches.bins import LogBins, split_index
from calibrant.sketches.extremes import Extremes
from calibrant.sketches.halves import Halves
from calibrant.sketches.histogram import Histogram
from calibrant.sketches.kernels.spread import spread
from calibrant.sketches.sketch import TensorSketch

F64 = NDArray[np.float64]

FINE = 8  # mantissa bits of what comes out
PARTS = 32  # of a cell


def divided(sketch: TensorSketch, factors: F64) -> TensorSketch:
    """The sketch of x / factors, channel by channel.

    factors: (channels,), positive and finite. The extremes are exact. Where each channel has a histogram there is one
    of the whole tensor, of bins as fine as `FINE` says; else there is none. There are no margins: those of rows tell
    nothing once channels move against each other.
    """
    extremes, each = _divided(sketch.extremes, factors), sketch.channel_histogram
    spec = replace(sketch.spec, histogram=each is not None, isotone_axis=None)
    if each is None:
        return TensorSketch(spec, extremes, None, None, None)
    whole = _moved(each, sketch.extremes, factors)
    return TensorSketch(replace(spec, mantissa_bits=FINE, per_channel=False), extremes, whole, None, None)


def divided_halves(halves: Halves, factors: F64, names: Mapping[str, str]) -> Halves:
    """The halves with the divided sketch of each of these values under its name in `names`; the others as they are."""
    even, odd = (half | {names[n]: divided(half[n], factors) for n in names} for half in (halves.even, halves.odd))
    return Halves(even, odd)


def _moved(histogram: Histogram, extremes: Extremes, factors: F64) -> Histogram:
    """The whole tensor's histogram of the divided values, `FINE` mantissa bits.

    Each cell is spread over PARTS values, none beyond the extremes of its channel.
    """
    bins = LogBins(FINE)
    if not histogram.channels:
        return Histogram.empty(bins)
    ends = [extremes.lo.astype(np.float64)[histogram.channel], extremes.hi.astype(np.float64)[histogram.channel]]
    lower, upper = np.clip([histogram.bins.lower(histogram.keys), histogram.bins.upper(histogram.keys)], *ends)
    mean = np.clip(middles(histogram), lower, upper)
    sizes, sums = spread((lower, upper), mean, histogram.counts, factors[histogram.channel], PARTS, FINE)
    found = np.flatnonzero(sizes)
    keys = split_index(found, FINE)
    order = keys.argsort()
    cells = [np.zeros_like(keys), keys[order]], [sizes[found[order]], sums[found[order]]]
    return Histogram.from_cells(bins, 1, cells)


def middles(histogram: Histogram) -> F64:
    """The mean of the values in each cell, float64 (cells,), as far as the histogram tells."""
    lower, upper = histogram.bins.lower(histogram.keys), histogram.bins.upper(histogram.keys)
    place = (histogram.positions / histogram.counts + 0.5) / 256
    return np.where(histogram.keys < 0, upper + place * (lower - upper), lower + place * (upper - lower))


def _divided(extremes: Extremes, factors: F64) -> Extremes:
    lo, hi = extremes.lo.astype(np.float64), extremes.hi.astype(np.float64)
    if not extremes.channels:
        return extremes
    return replace(extremes, lo=(lo / factors).astype(np.float32), hi=(hi / factors).astype(np.float32))
