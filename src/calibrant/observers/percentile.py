"""percentile: the grid covers all but the outermost values, and clips those."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from calibrant.core import SettingError, affine
from calibrant.observers.base import BaseTensorObserver
from calibrant.observers.cells import Cells
from calibrant.sketches import Extremes, Histogram, TensorSketch

DEFAULT = 0.9999


class PercentileObserver(BaseTensorObserver):
    """Symmetric: [-q, q], with q the quantile p of |x|; asymmetric: the quantiles 1 - p and p, widened to contain 0.

    p: the config's detail "percentile", above 0.5 up to 1, 0.9999 unless given. Quantiles are over all values seen,
    with numpy's linear interpolation between the two values around the rank, each known to within its bin.
    Raises SettingError for another p.
    """

    sketches = (Extremes, Histogram)

    def solve(self, sketch: TensorSketch) -> tuple[ArrayLike, ArrayLike]:
        from calibrant.observers.kernels.ranks import magnitude_quantiles_of_channels, quantiles_of_channels

        p = self._percentile()
        lo, hi = self.ends(sketch)
        affine(lo, hi, self._quant_cfg)  # an unsigned symmetric grid refuses negative values, clipped or not
        cells = Cells.of(self.histogram(sketch), sketch.extremes)
        if self._quant_cfg.is_symmetric:
            top = magnitude_quantiles_of_channels(cells, p).reshape(lo.shape)
            return affine(np.where(lo < 0, -top, 0.0), top, self._quant_cfg)
        low, high = (end.reshape(lo.shape) for end in quantiles_of_channels(cells, np.array([1 - p, p])).T)
        return affine(low, high, self._quant_cfg)

    def _percentile(self) -> float:
        p = self._quant_cfg.detail.get("percentile", DEFAULT)
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0.5 < p <= 1:
            hint = f"; did you mean {p / 100:g}?" if isinstance(p, int | float) and 50 < p <= 100 else ""
            raise SettingError(f"{self._name}: percentile must be a number above 0.5 up to 1, got {p!r}{hint}")
        return float(p)
