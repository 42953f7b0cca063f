"""minmax: the grid covers everything that was seen."""

from __future__ import annotations

from numpy.typing import ArrayLike

from calibrant.core import affine
from calibrant.observers.base import BaseTensorObserver
from calibrant.sketches import Extremes, TensorSketch


class MinmaxObserver(BaseTensorObserver):
    """[min, max] of all finite values, widened to contain 0; see `calibrant.core.affine` for the formulas."""

    sketches = (Extremes,)

    def solve(self, sketch: TensorSketch) -> tuple[ArrayLike, ArrayLike]:
        lo, hi = self.ends(sketch)
        return affine(lo, hi, self._quant_cfg)
