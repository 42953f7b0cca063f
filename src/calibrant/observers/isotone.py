"""isotone: the scale and offset under which the largest value of most rows stays strictly the largest."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike

from calibrant.core import ConfigError, RoundingPolicy, affine
from calibrant.observers.base import BaseTensorObserver
from calibrant.observers.cells import Cells
from calibrant.observers.mse import grid_of, searchable
from calibrant.sketches import Extremes, Histogram, Margins, TensorSketch

log = logging.getLogger(__name__)

# as kernels.order names them; ROUND_TO_NEAR_INT takes ties away from zero
ROUNDING = {
    RoundingPolicy.ROUND_HALF_EVEN: 0,
    RoundingPolicy.ROUND_HALF_UP: 1,
    RoundingPolicy.ROUND_HALF_DOWN: 2,
    RoundingPolicy.ROUND_HALF_TOWARDS_ZERO: 3,
    RoundingPolicy.ROUND_HALF_FAR_FORM_ZERO: 4,
    RoundingPolicy.ROUND_TO_NEAR_INT: 4,
    RoundingPolicy.ROUND_UP: 5,
}


class IsotoneObserver(BaseTensorObserver):
    """Keep the order. A row along the config's detail "isotone_axis" (-1 unless given) is kept when
    Quant(largest) > Quant(second). Of all scales, and if asymmetric offsets, the ones that keep most rows; of those
    that keep as many, the least mean squared error.

    Per channel: the rows of each channel by themselves, so the channel axis cannot be the isotone axis (ConfigError).
    Rows of one value have no order to keep, and rows whose two largest are equal cannot be kept. How it went is noted
    in the config's detail "isotone", {"rows": of two or more values, "kept": of these, "tied": of these}, and logged.
    """

    sketches = (Extremes, Histogram, Margins)

    def solve(self, sketch: TensorSketch) -> tuple[ArrayLike, ArrayLike]:
        config = self._quant_cfg
        grid_of(config)
        lo, hi = self.ends(sketch)
        scale, offset = (part.astype(np.float64).reshape(-1) for part in affine(lo, hi, config))
        margins = self._margins(sketch, len(scale))
        cells = Cells.of(self.histogram(sketch), sketch.extremes)
        choice, kept = searchable(lo, hi, config).reshape(-1), 0
        for c in np.flatnonzero(choice):
            plain = float(scale[c]), int(offset[c]) - config.quant_min
            found, scale[c], below = self._solve_channel(cells, int(c), margins, *plain)
            kept, offset[c] = kept + found, below + config.quant_min
        self._report(margins, kept)
        return scale.reshape(lo.shape), offset.reshape(lo.shape)

    def _margins(self, sketch: TensorSketch, channels: int) -> Margins:
        """The margins, which must be per channel where the config is."""
        margins = sketch.margins
        if margins is None:
            raise self._lacks("the margins of its rows (isotone_axis)")
        asked = self._quant_cfg.detail.get("isotone_axis", -1)
        if margins.axis != asked:
            raise self._lacks(f"the margins along axis {asked} (it has those along axis {margins.axis})")
        if self._quant_cfg.is_per_channel and margins.channels not in (0, channels):
            raise ConfigError(
                f"{self._name}: isotone per channel needs rows that lie within a channel, but both the isotone_axis "
                f"({margins.axis}) and the channel_axis ({self._quant_cfg.channel_axis}) are the axis of the channels: "
                "make the config PER_TENSOR, or choose another isotone_axis"
            )
        return margins

    def _solve_channel(
        self, cells: Cells, c: int, margins: Margins, scale: float, below: int
    ) -> tuple[int, float, int]:
        """How many rows are kept, the scale, and how many steps of the grid lie below zero; scale, below: minmax's."""
        from calibrant.observers.kernels import order, pieces, squares

        here = margins.channel == c if self._quant_cfg.is_per_channel else np.ones(len(margins.channel), bool)
        rows = order.Rows(margins.values(margins.top[here]), margins.values(margins.second[here]), margins.counts[here])
        grid = grid_of(self._quant_cfg)
        rounding = ROUNDING[self._quant_cfg.rounding]
        pos, neg, _ = pieces.make_sides(cells, c)
        scales = order.scales_to_try(rows, grid) if len(rows.counts) else np.zeros(0)
        if len(scales):
            found = order.most_kept(rows, pos, neg, grid, rounding, scales)
            if found.kept > 0:
                return found.kept, found.scale, found.below
        return 0, *squares.search(pos, neg, grid, scale, below)

    def _report(self, margins: Margins, kept: int) -> None:
        tied = int(margins.tied.sum())
        rows = int(margins.counts.sum()) + tied
        self._quant_cfg.detail["isotone"] = {"rows": rows, "kept": kept, "tied": tied}
        level = logging.INFO if kept or not rows else logging.WARNING
        log.log(level, "%s: isotone keeps the order of %d of %d rows (%d are tied)", self._name, kept, rows, tied)
