"""BaseTensorObserver: from what a tensor was seen to hold, to its scale and offset."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from calibrant.core import (
    ConfigError,
    DataError,
    ObservationError,
    QuantizationProperty,
    QuantizationStates,
    TensorQuantizationConfig,
)
from calibrant.observers.cells import Cells
from calibrant.observers.distribution import Distribution
from calibrant.sketches import Collector, Extremes, Histogram, Margins, SketchSpec, TensorSketch


class BaseTensorObserver:
    """Watches one tensor and finds its scale and offset. Subclass it in one of two forms, then register the class.

    Sketch form (works from saved tables, merges and clusters as the built-in observers do): name the `sketches` that
    are needed, and override `solve`. All checks are made before `solve` is called; see MinmaxObserver.

        class Middle(BaseTensorObserver):
            sketches = (Extremes,)
            def solve(self, sketch):
                lo, hi = self.ends(sketch)
                return affine(lo / 2, hi / 2, self._quant_cfg)

    Raw form (needs the samples): override `observe` and `render_quantization_config`; the latter writes
    `self._quant_cfg.scale`, `.offset`, and sets `.state` to ACTIVATED.

    watch_on: the value's name, for messages; or None. quant_cfg: the config to solve.
    """

    sketches: ClassVar[tuple[type, ...]] = (Extremes,)

    def __init__(self, watch_on: str | None, quant_cfg: TensorQuantizationConfig) -> None:
        self._watch_on = watch_on
        self._quant_cfg = quant_cfg
        self._collector: Collector | None = None

    def observe(self, value: Any) -> None:
        """Look at the values of a tensor; any number of times.

        value: numpy array (floats of 16, 32 or 64 bits; integers), or torch tensor on any device; read only.
        Raises DataError for an empty one, for one without the channel axis, and when the number of channels changes.
        """
        shape = tuple(value.shape) if hasattr(value, "shape") else np.shape(value)
        if 0 in shape:
            raise DataError(f"{self._name}: cannot observe an empty array of shape {shape}")
        if self._collector is None:
            self._collector = Collector(self.spec_for(self._quant_cfg))
        self._collector.add(value)

    def render_quantization_config(self) -> None:
        """Write scale and offset into the config and set its state to ACTIVATED. Raises as `render_from` does."""
        if self._collector is None:
            raise ObservationError(f"{self._name}: nothing was observed, so there is no scale to find")
        self.render_from(self._collector.sketch())

    def render_from(self, sketch: TensorSketch) -> None:
        """As `render_quantization_config`, from a given sketch. On any error the config stays as it was.

        Raises ObservationError when no finite value was seen, when NaN or Inf were (unless the config's detail
        "ignore_nonfinite" is true), and when the sketch lacks what this observer needs.
        """
        self._check(sketch)
        config = self._quant_cfg
        scale, offset = self.solve(sketch)
        checked = config.clone(scale=scale, offset=offset)
        found = np.asarray(checked.offset)
        if ((found < config.quant_min) | (found > config.quant_max)).any():
            raise ConfigError(
                f"{self._name}: {type(self).__name__} gave offset {found}, outside the grid "
                f"[{config.quant_min}, {config.quant_max}]"
            )
        config.scale, config.offset = checked.scale, checked.offset
        config.state = QuantizationStates.ACTIVATED

    def solve(self, sketch: TensorSketch) -> tuple[ArrayLike, ArrayLike]:
        """Scale and offset from the sketch, which holds all that `sketches` names: 0-d, or (channels,) per channel.

        Called with at least one finite value seen, per channel in every channel; the config is not to be changed,
        but for notes in its `detail`.
        """
        raise NotImplementedError(f"{type(self).__name__} implements no solve step: {type(self).__name__}.solve")

    @classmethod
    def needs_raw_values(cls) -> bool:
        """Whether this is an observer of the raw form, which cannot work from sketches."""
        return (
            cls.observe is not BaseTensorObserver.observe
            or cls.render_quantization_config is not BaseTensorObserver.render_quantization_config
        )

    def refuse_without_raw_values(self, advice: str = "calibrate with samples instead") -> None:
        """Raise ObservationError for an observer of the raw form, where there are sketches alone."""
        if self.needs_raw_values():
            method = self._quant_cfg.observer_algorithm
            raise ObservationError(f"method '{method}' looks at raw values, which a table does not hold: {advice}")

    @classmethod
    def spec_for(cls, config: TensorQuantizationConfig, channel_axis: int | None = None) -> SketchSpec:
        """What to collect of a value that has this config.

        channel_axis: where the value's channels are, if known, so that extremes can be kept per channel;
            a per-channel config says that itself.
        """
        per_channel = config.is_per_channel and (Histogram in cls.sketches or Margins in cls.sketches)
        bits = {"mantissa_bits": config.detail["mantissa_bits"]} if "mantissa_bits" in config.detail else {}
        return SketchSpec(
            histogram=Histogram in cls.sketches and not per_channel,
            channel_axis=config.channel_axis if config.is_per_channel else channel_axis,
            per_channel=per_channel,
            isotone_axis=config.detail.get("isotone_axis", -1) if Margins in cls.sketches else None,
            **bits,
        )

    def ends(self, sketch: TensorSketch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The exact smallest and largest finite values, float64: 0-d per tensor, (channels,) per channel."""
        lo, hi = sketch.extremes.lo, sketch.extremes.hi
        if not self._quant_cfg.is_per_channel:
            return np.asarray(lo.min(), np.float64), np.asarray(hi.max(), np.float64)
        return lo.astype(np.float64), hi.astype(np.float64)

    def histogram(self, sketch: TensorSketch) -> Histogram:
        """The histogram to solve from: the tensor's, or per channel the one that has them all."""
        found = sketch.channel_histogram if self._quant_cfg.is_per_channel else sketch.histogram
        if found is None:
            raise self._lacks("its histogram")
        return found

    def distributions(self, sketch: TensorSketch) -> list[Distribution]:
        """What was seen, as far as the sketch tells values apart: one distribution, or per channel one of each."""
        return list(Distribution.per_channel(Cells.of(self.histogram(sketch), sketch.extremes)))

    @property
    def _name(self) -> str:
        return f"value '{self._watch_on}'" if self._watch_on is not None else "the observed value"

    def _check(self, sketch: TensorSketch) -> None:
        """Refuse a sketch from which no scale can be found."""
        seen = sketch.extremes
        if seen.size > seen.finite and not self._quant_cfg.detail.get("ignore_nonfinite", False):
            raise ObservationError(
                f"{self._name}: {seen.nan} NaN, {seen.pos_inf} +Inf and {seen.neg_inf} -Inf among {seen.size} "
                "elements. Mend the samples or the model, leave the value in float, or set ignore_nonfinite to "
                "calibrate on the finite ones"
            )
        if seen.finite == 0:
            what = "no finite value" if seen.size else "nothing"
            raise ObservationError(f"{self._name}: {what} was observed, so there is no scale to find")
        if self._quant_cfg.is_per_channel:
            self._check_channels(sketch)
        elif Histogram in self.sketches and sketch.histogram is None:
            raise self._lacks("its histogram")
        if Margins in self.sketches and sketch.margins is None:
            raise self._lacks("the margins of its rows (isotone_axis)")

    def _check_channels(self, sketch: TensorSketch) -> None:
        axis, spec = self._quant_cfg.channel_axis, sketch.spec
        needed = bool({Histogram, Margins} & set(self.sketches))
        if spec.channel_axis is None or (needed and not spec.per_channel):
            raise self._lacks("statistics per channel")
        if axis is not None and spec.channel_axis != axis:
            raise ObservationError(
                f"{self._name}: the config's channel_axis is {axis}, but it was collected along {spec.channel_axis}: "
                "collect again with that axis, or change the config's"
            )
        bare = np.flatnonzero(~np.isfinite(sketch.extremes.lo))
        if len(bare):
            raise ObservationError(
                f"{self._name}: no finite value was observed in {len(bare)} of {sketch.extremes.channels} channels, "
                f"the first of them {bare[0]}: make the config PER_TENSOR, or leave the value in float"
            )

    def _lacks(self, what: str) -> ObservationError:
        how = "collect again with `--per-channel-activations` (in code: a config with a PER_CHANNEL policy)"
        if not self._quant_cfg.is_per_channel:
            how = "collect again for it"
        method = self._quant_cfg.observer_algorithm
        return ObservationError(
            f"{self._name}: the sketch does not hold {what}, which the method '{method}' needs; {how}"
        )


def refuse_policy(config: TensorQuantizationConfig) -> None:
    """ConfigError for the policies that no observer solves: FLOATING and DYNAMIC ones."""
    for what, instead in (
        (QuantizationProperty.FLOATING, "make the policy LINEAR"),
        (QuantizationProperty.DYNAMIC, "its scale is found at run time: leave DYNAMIC out to calibrate it"),
    ):
        if config.policy.has_property(what):
            raise ConfigError(f"no observer solves a {what.name} policy, got {config.policy!r}: {instead}")
