"""The histogram of a value in a few equal parts of its range, for pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibrant.observers import Distribution
from calibrant.sketches import TensorSketch

PARTS = 24


@dataclass(frozen=True)
class Bars:
    """How many values lie in each of equal parts of their range.

    edges: one more than counts, ascending. What lies nearer to an edge than the sketch tells may count beyond it.
    """

    edges: list[float]
    counts: list[int]

    @classmethod
    def of(cls, sketch: TensorSketch, parts: int = PARTS) -> Bars | None:
        """None where the sketch has no histogram, or nothing finite. One part where all values are the same."""
        extremes = sketch.extremes.per_tensor()
        if sketch.histogram is None or not extremes.finite:
            return None
        lo, hi = float(extremes.lo[0]), float(extremes.hi[0])
        edges = np.linspace(lo, hi, parts + 1) if lo < hi else np.array([lo, hi])
        up_to = np.rint(Distribution.of(sketch.histogram, extremes).count(edges[1:-1]))
        counts = np.diff(np.concatenate([[0], np.maximum.accumulate(up_to), [extremes.finite]]))
        return cls(edges.tolist(), [int(count) for count in counts])

    def part_of(self, x: float) -> int:
        """The part in which x lies; the first or the last for what lies beyond."""
        lo, hi = self.edges[0], self.edges[-1]
        share = (x - lo) / (hi - lo) if hi > lo else 0.0
        return min(max(int(share * len(self.counts)), 0), len(self.counts) - 1)
