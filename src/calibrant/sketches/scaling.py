"""The sketch of a value whose channels are divided by factors, without seeing the value again.

Bins are relative to the values in them, so what is remembered of each channel of x tells nearly as well what would be
remembered of x / factor: each cell moves, as a whole, to where the mean of its values is then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calibrant.core import ObservationError
from calibrant.sketches.cells import fold_cells
from calibrant.sketches.extremes import Extremes
from calibrant.sketches.halves import Halves
from calibrant.sketches.histogram import Histogram
from calibrant.sketches.sketch import TensorSketch

F64 = NDArray[np.float64]


def divided(sketch: TensorSketch, factors: F64) -> TensorSketch:
    """The sketch of x / factors, channel by channel.

    factors: (channels,), positive and finite. The extremes are exact. With a histogram of each channel there is one of
    the whole, as fine as those, in which each value is off by less than the width of a bin; else there is none.
    Raises ObservationError for a sketch with margins, which tell nothing once channels move against each other.
    """
    if sketch.margins is not None:
        raise ObservationError("margins of rows do not tell what they are when channels are divided: leave isotone out")
    extremes, each = _divided(sketch.extremes, factors), sketch.channel_histogram
    if each is None:
        return replace(sketch, spec=replace(sketch.spec, histogram=False), extremes=extremes, histogram=None)
    moved = _moved(each, factors)
    return replace(
        sketch,
        spec=replace(sketch.spec, histogram=True, mantissa_bits=sketch.spec.channel_mantissa_bits),
        extremes=extremes,
        histogram=moved.total,
        channel_histogram=moved,
    )


def divided_halves(halves: Halves, factors: Mapping[str, F64]) -> Halves:
    """The halves with the sketches of these values divided, the others as they are."""
    even, odd = (
        {name: divided(s, factors[name]) if name in factors else s for name, s in half.items()}
        for half in (halves.even, halves.odd)
    )
    return Halves(even, odd)


def _moved(histogram: Histogram, factors: F64) -> Histogram:
    if not histogram.channels:
        return histogram
    limit = np.finfo(np.float32).max
    x = np.clip(middles(histogram) / factors[histogram.channel], -limit, limit).astype(np.float32)
    names = [histogram.channel, histogram.bins.keys(x)]
    cells = fold_cells(names, [histogram.counts, histogram.counts * histogram.bins.sub(x)])
    return Histogram.from_cells(histogram.bins, histogram.channels, cells)


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
