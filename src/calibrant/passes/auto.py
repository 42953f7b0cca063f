"""The method `auto`: for each value the method that errs least on samples it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from typing import Any

import numpy as np

from calibrant.core import ConfigError, TensorQuantizationConfig
from calibrant.observers import squared_error
from calibrant.passes.calibration import Calibration, merged
from calibrant.sketches import Halves, SketchSpec

AUTO = "auto"
CANDIDATES = ("mse", "percentile", "minmax", "kl")  # of equal ones the first


def is_auto(config: TensorQuantizationConfig) -> bool:
    """Whether the config's method is still to be chosen."""
    return config.observer_algorithm.casefold() == AUTO


def candidates_for(
    config: TensorQuantizationConfig, roots: Sequence[str], *more: str, **detail: Any
) -> list[Calibration]:
    """What `auto` chooses from: a calibration by each method that takes the config (kl takes 8 bits at most).

    more: methods beside CANDIDATES.
    """
    found = []
    for name in dict.fromkeys([*CANDIDATES, *more]):
        with suppress(ConfigError):
            found.append(Calibration.of(config, roots, name, **detail))
    return found


class AutoCalibration(Calibration):
    """A config whose method is chosen: each candidate is solved on one half of the samples and judged on the other.

    Judged by the mean squared error that the sketch of the other half tells (see `squared_error`), both ways, added.
    The one of least error is then solved on all samples. Where one half has no samples, all of them serve for both.
    """

    candidates: list[Calibration]

    @classmethod
    def of(cls, config: TensorQuantizationConfig, roots: Sequence[str], method: str, **detail: Any) -> AutoCalibration:
        candidates = candidates_for(config, roots, **detail)
        first = candidates[0]
        task = cls(first.config, first.draft.clone(observer_algorithm=method), first.observer, first.roots)
        task.candidates = candidates
        return task

    @property
    def by_extremes(self) -> bool:
        return False

    def spec(self, channel_axis: int | None) -> SketchSpec:
        return reduce(SketchSpec.union, (candidate.spec(channel_axis) for candidate in self.candidates))

    def solve(self, sketches: Halves) -> None:
        chosen = self.chosen(sketches)
        chosen.solve(sketches)
        self.draft, self.moved = chosen.draft, chosen.moved

    def chosen(self, sketches: Halves) -> Calibration:
        """The candidate of least error, not solved yet."""
        even, odd = ([half[root] for root in self.roots] for half in (sketches.even, sketches.odd))
        if not all(sketch.extremes.channels and np.isfinite(sketch.extremes.lo).all() for sketch in (*even, *odd)):
            even = odd = [sketches[root] for root in self.roots]
        errors = [self._error(c, even, odd) + self._error(c, odd, even) for c in self.candidates]
        return self.candidates[errors.index(min(errors))]

    def _error(self, candidate: Calibration, seen: Any, unseen: Any) -> float:
        """The error on one half of what the candidate finds on the other."""
        per_channel = self.config.is_per_channel
        draft = Calibration.of(self.config, self.roots, candidate.draft.observer_algorithm)
        draft.observer.render_from(merged(seen, per_channel))
        return squared_error(draft.draft, merged(unseen, per_channel))[0]
