"""kl: the range that loses least information, by the divergence that NVIDIA published as entropy calibration."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.core import ConfigError, TensorQuantizationConfig, affine
from calibrant.observers.base import BaseTensorObserver
from calibrant.observers.cells import Cells
from calibrant.observers.mse import searchable
from calibrant.sketches import Extremes, Histogram, TensorSketch

F64 = NDArray[np.float64]
MOST_BITS = 8
UNSOUND = 0.5  # of the values clipped: worth a warning

log = logging.getLogger(__name__)


class KlObserver(BaseTensorObserver):
    """Migacz, "8-bit Inference with TensorRT" (GTC 2017), on 2048 linear bins that the sketch is turned into.

    Symmetric: bins of |x| over [0, max], merged into as many groups as the grid has non-negative integers (128 for
    int8); every number of bins from that on is tried. Asymmetric: bins of x over [min, max], widened to hold 0, merged
    into as many groups as the grid has integers; both ends are searched, coarse to fine, by the same divergence, among
    the windows that hold half of the values or more. The bin of 0 never votes with its zeros. POWER_OF_2: the scale
    among powers of two, by the divergence of its range.

    2 to 8 bits, else ConfigError: with more levels than that, 2048 bins have nothing to merge.
    """

    sketches = (Extremes, Histogram)

    def __init__(self, watch_on: str | None, quant_cfg: TensorQuantizationConfig) -> None:
        super().__init__(watch_on, quant_cfg)
        if quant_cfg.num_of_bits > MOST_BITS:
            raise ConfigError(
                f"{self._name}: kl merges 2048 bins into 2 to 8 bits, got {quant_cfg.num_of_bits} bits: "
                "choose mse, percentile or minmax"
            )

    def solve(self, sketch: TensorSketch) -> tuple[ArrayLike, ArrayLike]:
        config = self._quant_cfg
        lo, hi = self.ends(sketch)
        plain_scale, plain_offset = affine(lo, hi, config)
        choice = searchable(lo, hi, config)
        if config.is_symmetric:
            low, high = np.zeros_like(lo), np.maximum(-lo, hi)
        else:
            low, high = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
        low, high = (np.where(choice, end, 0.0).reshape(-1) for end in (low, high))  # an empty range is left alone
        cells = Cells.of(self.histogram(sketch), sketch.extremes)
        if config.is_power_of_2:
            scale, offset = _power_of_2(cells, low, high, plain_scale.astype(np.float64).reshape(-1), config)
        else:
            scale, offset = (part.astype(np.float64) for part in affine(*self._window(cells, low, high), config))
        return (
            np.where(choice, scale.reshape(lo.shape), plain_scale),
            np.where(choice, offset.reshape(lo.shape), plain_offset),
        )

    def _window(self, cells: Cells, low: F64, high: F64) -> tuple[F64, F64]:
        """The ends of the range with the least divergence, of each channel."""
        from calibrant.observers.kernels.entropy import asymmetric_ends, symmetric_tops

        config = self._quant_cfg
        if not config.is_symmetric:
            asymmetric_ends(cells, _levels(config), low, high)
            return low, high
        clipped = symmetric_tops(cells, _levels(config), high)
        if clipped.max() > UNSOUND:
            log.warning(
                "%s: kl clips %.0f %% of the values%s: values far from 0 leave its histogram of |x| empty where it "
                "starts, and one full bin diverges from nothing; choose an asymmetric policy, or mse",
                self._name,
                100 * clipped.max(),
                f" of channel {clipped.argmax()}" if config.is_per_channel else "",
            )
        return (-high if config.is_signed else low), high


def _levels(config: TensorQuantizationConfig) -> int:
    """Into how many groups the bins are merged."""
    return config.quant_max + 1 if config.is_symmetric else config.levels


def _power_of_2(cells: Cells, low: F64, high: F64, scale: F64, config: TensorQuantizationConfig) -> tuple[F64, F64]:
    """The power of two with the least divergence, and the offset, of each channel; `scale` covers everything."""
    from calibrant.observers.kernels.entropy import BINS, power_scales

    span = config.levels - 1
    covered = span if not config.is_symmetric else span / 2 if config.is_signed else config.quant_max
    first = power_scales(cells, _levels(config), config.is_symmetric, float(covered), low, high, scale)
    if config.is_symmetric:
        return scale, np.zeros_like(scale)
    start = low + first * ((high - low) / BINS)
    return scale, np.clip(np.rint(config.quant_min - start / scale), config.quant_min, config.quant_max)
