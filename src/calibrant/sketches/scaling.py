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
from calibrant.sketches.cells import I64
from calibrant.sketches.extremes import F32, Extremes
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

    Each cell is spread over PARTS values, none beyond the extremes of its channel. Where several elements are at an
    extreme, as values that were clipped are, they stay there.
    """
    bins = LogBins(FINE)
    if not histogram.channels:
        return Histogram.empty(bins)
    of_end, end, hits = _shared_ends(extremes)
    rest = _without(histogram, of_end, end, hits)
    reach = [side.astype(np.float64)[rest.channel] for side in (extremes.lo, extremes.hi)]
    lower, upper = np.clip([rest.bins.lower(rest.keys), rest.bins.upper(rest.keys)], *reach)
    mean = np.clip(middles(rest), lower, upper)
    lower, upper, mean = (np.concatenate([cells, end.astype(np.float64)]) for cells in (lower, upper, mean))
    counts, channel = np.concatenate([rest.counts, hits]), np.concatenate([rest.channel, of_end])
    sizes, sums = spread((lower, upper), mean, counts, factors[channel], PARTS, FINE)
    found = np.flatnonzero(sizes)
    keys = split_index(found, FINE)
    order = keys.argsort()
    cells = [np.zeros_like(keys), keys[order]], [sizes[found[order]], sums[found[order]]]
    return Histogram.from_cells(bins, 1, cells)


def _shared_ends(extremes: Extremes) -> tuple[I64, F32, I64]:
    """The smallest and largest values of channels that several elements have: channel, value, how many elements."""
    low = np.flatnonzero(extremes.n_lo > 1)
    high = np.flatnonzero((extremes.n_hi > 1) & (extremes.lo < extremes.hi))
    values, hits = [extremes.lo[low], extremes.hi[high]], [extremes.n_lo[low], extremes.n_hi[high]]
    return np.concatenate([low, high]), np.concatenate(values), np.concatenate(hits)


def _without(histogram: Histogram, channel: I64, values: F32, hits: I64) -> Histogram:
    """The histogram without these elements of it."""
    bins = histogram.bins
    cells = (histogram.channel.astype(np.int64) << 32) + histogram.keys  # ascending
    at = np.searchsorted(cells, (channel << 32) + bins.keys(values))
    counts, positions = histogram.counts.copy(), histogram.positions.copy()
    np.subtract.at(counts, at, hits)
    np.subtract.at(positions, at, hits * bins.sub(values))
    left = counts > 0
    names, weights = [histogram.channel[left], histogram.keys[left]], [counts[left], positions[left]]
    return Histogram.from_cells(bins, histogram.channels, (names, weights))


def middles(histogram: Histogram) -> F64:
    """The mean of the values in each cell, float64 (cells,), as far as the histogram tells."""
    lower, upper = histogram.bins.lower(histogram.keys), histogram.bins.upper(histogram.keys)
    place = (histogram.positions / histogram.counts + 0.5) / 256
    return np.where(histogram.keys < 0, upper + place * (lower - upper), lower + place * (upper - lower))


def _divided(extremes: Extremes, factors: F64) -> Extremes:
    if not extremes.channels:
        return extremes
    ends = (end.astype(np.float64) / factors for end in (extremes.lo, extremes.hi))
    lo, hi = (end.astype(np.float32) + np.float32(0) for end in ends)  # what becomes -0.0 is 0.0
    return replace(extremes, lo=lo, hi=hi)
