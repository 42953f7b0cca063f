"""Calibration: one config that is to be solved, and what it is solved from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from calibrant.core import CalibrantError, QuantizationStates, StateError, TensorQuantizationConfig
from calibrant.graph import ScaleGroup
from calibrant.observers import BaseTensorObserver, build_observer
from calibrant.sketches import Extremes, Halves, SketchSpec, TensorSketch

MOVES = 0.1  # of a scale, between two halves of the samples: less is no more than another choice of samples does


@dataclass
class Calibration:
    """One config to be solved, from the merged sketches of `roots`; `draft` replaces it when all is well."""

    config: TensorQuantizationConfig
    draft: TensorQuantizationConfig
    observer: BaseTensorObserver
    roots: Sequence[str]
    output: ScaleGroup | None = None  # a float output that is quantized if all is well
    moved: float | None = None  # between the scales of two halves of the samples, as a share of the scale of all

    @classmethod
    def of(cls, config: TensorQuantizationConfig, roots: Sequence[str], method: str, **detail: Any) -> Calibration:
        draft = config.clone(
            scale=None,
            offset=None,
            state=QuantizationStates.INITIAL,
            observer_algorithm=method,
            detail=config.detail | detail,
        )
        return cls(config, draft, build_observer(draft, watch_on=", ".join(roots)), roots)

    @property
    def needs_raw_values(self) -> bool:
        """Whether it is solved while the samples run through, by an observer that looks at them."""
        return self.observer.needs_raw_values()

    @property
    def by_extremes(self) -> bool:
        """Whether the ends of the range are all that it is solved from."""
        return not self.needs_raw_values and tuple(self.observer.sketches) == (Extremes,)

    def spec(self, channel_axis: int | None) -> SketchSpec:
        """What is to be remembered of its roots."""
        return type(self.observer).spec_for(self.draft, channel_axis=channel_axis)

    def uses(self, method: str) -> bool:
        """Whether it is solved by that method."""
        return self.draft.observer_algorithm.casefold() == method.casefold()

    def solve(self, sketches: Halves) -> None:
        """Find the draft's scale and offset, and how far the scale moves; the config itself is not touched."""
        self.find(sketches)
        self.moved = self._movement(sketches)

    def find(self, sketches: Mapping[str, TensorSketch]) -> None:
        """Find the draft's scale and offset."""
        if self.needs_raw_values:
            self.observer.render_quantization_config()
        else:
            self.observer.render_from(merged([sketches[root] for root in self.roots], self.config.is_per_channel))
        if self.draft.state is not QuantizationStates.ACTIVATED:
            raise StateError(
                f"observer '{self.draft.observer_algorithm}' left '{', '.join(self.roots)}' in state "
                f"{self.draft.state.name}: render_quantization_config must set scale, offset and state ACTIVATED"
            )

    def _movement(self, sketches: Halves) -> float | None:
        """How far apart the scales of the two halves are; None where that is not known, or would take long to find."""
        if self.needs_raw_values or self.config.is_per_channel or self.config.num_of_bits > 8:
            return None
        scales = []
        for half in (sketches.even, sketches.odd):
            other = Calibration.of(self.draft, self.roots, self.draft.observer_algorithm)
            try:
                other.observer.render_from(merged([half[root] for root in self.roots], per_channel=False))
            except CalibrantError:  # a half of few samples may hold nothing that this value's method can work with
                return None
            scales.append(float(other.draft.scale))  # type: ignore[arg-type]
        return abs(scales[0] - scales[1]) / float(self.draft.scale)  # type: ignore[arg-type]

    def commit(self) -> None:
        """Write what was found into the config, all of it at once."""
        self.config.scale, self.config.offset = self.draft.scale, self.draft.offset
        self.config.observer_algorithm, self.config.detail = self.draft.observer_algorithm, self.draft.detail
        self.config.detail.pop("moved", None)  # of a scale before this one
        if self.moved is not None:
            self.config.detail["moved"] = self.moved
        self.config.state = QuantizationStates.ACTIVATED


def merged(sketches: Sequence[TensorSketch], per_channel: bool) -> TensorSketch:
    """One sketch of several values on one scale; their channels, which need not correspond, are folded."""
    if len(sketches) > 1 and not per_channel:
        sketches = [folded(sketch) for sketch in sketches]
    return reduce(TensorSketch.merge, sketches)


def folded(sketch: TensorSketch) -> TensorSketch:
    """The sketch of the whole tensor, its channels forgotten."""
    spec = replace(sketch.spec, channel_axis=None, per_channel=False)
    return replace(sketch, spec=spec, extremes=sketch.extremes.per_tensor(), channel_histogram=None)
