"""mse: the scale and offset with the least mean squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.core import ConfigError, RoundingPolicy, TensorQuantizationConfig, affine
from calibrant.core.arithmetic import SMALLEST_SCALE
from calibrant.observers.base import BaseTensorObserver
from calibrant.observers.cells import Cells
from calibrant.sketches import Extremes, Histogram, TensorSketch

if TYPE_CHECKING:
    from calibrant.observers.kernels.squares import Grid

FINEST = 1 << 16  # levels
CHANNEL_FINENESS = 0.25  # of the search per channel
LARGEST_SCALE = float(np.finfo(np.float32).max)


class MseObserver(BaseTensorObserver):
    """The scale, and if asymmetric the offset, with the least E[(x - Dequant(Quant(x)))^2] of all scales.

    Scales are tried from the one at which everything becomes zero down to where clipping alone costs more than the
    best one found, closely enough to meet every atom with every level; the best are then refined to 2e-7 of the scale.
    In the asymmetric case every offset is tried with every scale. Never worse than minmax. POWER_OF_2: of all powers
    of two. Beyond 10 bits a rounding error far from zero counts as uniform.
    """

    sketches = (Extremes, Histogram)

    def solve(self, sketch: TensorSketch) -> tuple[ArrayLike, ArrayLike]:
        from calibrant.observers.kernels.squares import solve_channels

        config = self._quant_cfg
        grid = grid_of(config)
        lo, hi = self.ends(sketch)
        scale, offset = (part.astype(np.float64).reshape(-1) for part in affine(lo, hi, config))
        start = np.where(searchable(lo, hi, config), scale, 0.0).reshape(-1)
        below = (offset - config.quant_min).astype(np.int64)
        solve_channels(Cells.of(self.histogram(sketch), sketch.extremes), grid, start, below)
        return np.where(start > 0, start, scale).reshape(lo.shape), (below + config.quant_min).reshape(lo.shape)


def searchable(lo: NDArray[np.float64], hi: NDArray[np.float64], config: TensorQuantizationConfig) -> NDArray[np.bool_]:
    """Whether there is a choice of scale: not where all is zero, or too small for scales that float32 can hold."""
    return np.asarray(np.maximum(-lo, hi) >= SMALLEST_SCALE * (config.levels - 1))


def grid_of(config: TensorQuantizationConfig) -> Grid:
    """The config's integers and rounding as the search wants them. ConfigError for more than 16 bits."""
    from calibrant.observers.kernels.squares import Grid

    if config.levels > FINEST:
        raise ConfigError(
            f"'{config.observer_algorithm}' solves grids of 2 to 16 bits, got {config.levels} levels: use minmax"
        )
    span = config.levels - 1
    ceiling = config.rounding is RoundingPolicy.ROUND_UP
    return Grid(
        span,
        -config.quant_min if config.is_symmetric else 0,
        -config.quant_min if config.is_symmetric else span,
        up=0.0 if ceiling else 0.5,
        down=1.0 if ceiling else 0.5,
        spread=1 / 3 if ceiling else 1 / 12,
        power_of_2=config.is_power_of_2,
        smallest=SMALLEST_SCALE,
        largest=LARGEST_SCALE,
        fineness=CHANNEL_FINENESS if config.is_per_channel else 1.0,
    )
