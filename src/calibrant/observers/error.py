"""How much a solved config errs on values that a sketch remembers."""

from __future__ import annotations

import numpy as np

from calibrant.core import ObservationError, StateError, TensorQuantizationConfig
from calibrant.observers.cells import Cells
from calibrant.observers.mse import grid_of
from calibrant.sketches import TensorSketch


def squared_error(config: TensorQuantizationConfig, sketch: TensorSketch) -> tuple[float, float]:
    """Mean of (x - Dequant(Quant(x)))^2, and mean of x^2, over the finite values that the sketch has seen.

    The ratio of the second to the first is the SQNR: 10 log10 of it, in dB. What lies in one bin counts as spread as
    `Distribution` says; beyond 10 bits a rounding error far from zero counts as uniform. (0, 0) where nothing was seen.
    Raises StateError for a config without scale, ObservationError where the sketch has no histogram for it.
    """
    if config.scale is None or config.offset is None:
        raise StateError("the config has no scale yet: solve it first")
    histogram = sketch.channel_histogram if config.is_per_channel else sketch.histogram
    if histogram is None:
        raise ObservationError("the sketch has no histogram for this config, so its error cannot be told")
    if not histogram.size:
        return 0.0, 0.0
    from calibrant.observers.kernels.squares import errors_of_channels

    cells = Cells.of(histogram, sketch.extremes)
    scale = np.broadcast_to(np.asarray(config.scale, np.float64).reshape(-1), cells.channels)
    below = np.broadcast_to(np.asarray(config.offset, np.int64).reshape(-1) - config.quant_min, cells.channels)
    error, power = errors_of_channels(cells, grid_of(config), scale.copy(), below.copy())
    return max(float(error), 0.0) / histogram.size, float(power) / histogram.size
