"""What a target asks for, and how a quantized model stands to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.analysis.measures import Difference
from calibrant.core import CalibrantError, DataError, SettingError, TargetPlatform
from calibrant.data.functions import blame
from calibrant.graph import Graph
from calibrant.settings import QuantizationSetting

Run = Callable[[Any], list[NDArray[Any]]]
"""A model as a metric is given it: from one sample, in any form that samples have, to the outputs in order."""

Metric = Callable[[Run], float]
"""A user's own measure of a model, on data of the user's own. More is better."""


@dataclass(frozen=True)
class Targets:
    """What the quantized model has to reach.

    sqnr_db: of the outputs, the mean over them; where they are probabilities, of their logarithms as well. max_drop: by
    how much the metric may be below the float model's. most_in_float: how many operations may be lost to float, at
    most; with nothing to reach, the best with so many is looked for. latency: whether models are
    timed as well.
    """

    sqnr_db: float | None = None
    max_drop: float | None = None
    metric: Metric | None = None
    most_in_float: int | None = None
    latency: bool = False

    @property
    def in_decibels(self) -> bool:
        """Whether the outputs' SQNR is what is looked at."""
        return self.sqnr_db is not None or self.budget is not None

    @property
    def budget(self) -> int | None:
        """How many operations may be in float for nothing but more dB; None where there is something to reach."""
        return self.most_in_float if self.sqnr_db is None and self.max_drop is None else None

    @classmethod
    def of(
        cls, setting: QuantizationSetting, metric: Metric | None, timed_for: TargetPlatform | None = None
    ) -> Targets | None:
        """Those of the setting; None where it has none. timed_for: the platform, where models are to be timed.

        SettingError for max_drop without a metric, or the reverse; where models are to be timed, for no target, and
        for another platform than onnxruntime, which is what runs them here.
        """
        if setting.max_drop is not None and metric is None:
            raise SettingError("max_drop is a drop of a metric of your own: give `metric` as well (--metric)")
        if metric is not None and setting.max_drop is None:
            raise SettingError("a metric needs to know by how much it may drop: set max_drop (--max-drop)")
        if timed_for not in (None, TargetPlatform.ONNXRUNTIME):
            name = timed_for.name
            raise SettingError(f"latency is measured in onnxruntime, which does not run a model made for {name}")
        if setting.has_target:
            return cls(setting.target_sqnr, setting.max_drop, metric, setting.most_in_float, timed_for is not None)
        if timed_for is not None:
            raise SettingError("latency is measured of the models on the way to a target: give one (--target-sqnr)")
        return None

    def check(self, graph: Graph) -> None:
        """Raise SettingError for a target that is told at floating outputs, of a model that has none."""
        if self.in_decibels and not graph.floating_outputs:
            raise SettingError(
                "dB are measured at floating outputs, and the model has none: give max_drop and a metric of your own "
                "(--max-drop, --metric) instead of target_sqnr or most_in_float"
            )


@dataclass(frozen=True)
class Score:
    """Of one model. metric: of the user's own; None where there is none."""

    sqnr_db: float
    metric: float | None = None


def mean_sqnr(references: Sequence[Sequence[NDArray[Any]]], outputs: Sequence[Sequence[NDArray[Any]]]) -> float:
    """SQNR in dB over all samples, the mean over the floating outputs, each counted for -200 to 200; without: 200."""
    found: dict[int, Difference] = {}
    for reference, made in zip(references, outputs, strict=True):
        for number, (one, other) in enumerate(zip(reference, made, strict=True)):
            if one.dtype.kind == "f":
                found.setdefault(number, Difference()).add(one, other)
    each = [np.clip(np.nan_to_num(difference.sqnr_db, nan=-200.0), -200, 200) for difference in found.values()]
    return float(np.mean(each)) if each else 200.0


def applied(metric: Metric, run: Run) -> float:
    """What the metric says. Raises DataError where that is no number, or with what the metric raised."""
    try:
        found = metric(run)
    except CalibrantError:
        raise
    except Exception as error:
        raise DataError(f"the metric raised {blame(error)}") from error
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise DataError(f"the metric has to return a number, got {found!r}")
    return number + 0.0  # -0.0 becomes 0.0
