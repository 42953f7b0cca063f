"""TensorSketch: everything that is remembered of one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from calibrant.sketches.arrays import as_floats
from calibrant.sketches.bins import LogBins
from calibrant.sketches.canonical import Canonical, refuse_difference
from calibrant.sketches.extremes import Extremes
from calibrant.sketches.histogram import Histogram
from calibrant.sketches.layout import positive_axis
from calibrant.sketches.margins import Margins
from calibrant.sketches.spec import SketchSpec


@dataclass(frozen=True, slots=True, eq=False)
class TensorSketch(Canonical):
    """The sketches that `spec` asks for; None for the others.

    `of` goes through the values once for each sketch; `Collector` gives the same, faster.
    """

    spec: SketchSpec
    extremes: Extremes
    histogram: Histogram | None
    channel_histogram: Histogram | None
    margins: Margins | None

    @classmethod
    def empty(cls, spec: SketchSpec | None = None) -> TensorSketch:
        """The sketch of nothing."""
        spec = spec or SketchSpec()
        return cls(
            spec,
            Extremes.empty(),
            Histogram.empty(LogBins(spec.mantissa_bits)) if spec.histogram else None,
            Histogram.empty(LogBins(spec.channel_mantissa_bits)) if spec.per_channel else None,
            Margins.empty(spec.isotone_axis) if spec.isotone_axis is not None else None,
        )

    @classmethod
    def of(cls, x: Any, spec: SketchSpec | None = None) -> TensorSketch:
        """The sketch of `x` (see `Collector.add` for what it may be). DataError where it lacks an axis of the spec."""
        spec, values = spec or SketchSpec(), as_floats(x)
        channel_bins, axis = LogBins(spec.channel_mantissa_bits), spec.isotone_axis
        return cls(
            spec,
            Extremes.of(values, spec.channel_axis),
            Histogram.of(values, LogBins(spec.mantissa_bits)) if spec.histogram else None,
            Histogram.of(values, channel_bins, spec.channel_axis) if spec.per_channel else None,
            None if axis is None else Margins.of(values, axis, row_channel_axis(values.shape, spec)),
        )

    def merge(self, other: TensorSketch) -> TensorSketch:
        """The sketch of both. IncompatibleSketches, naming the settings, where the specs differ."""
        refuse_difference("TensorSketches", self.spec.differences(other.spec))
        return TensorSketch(
            self.spec,
            self.extremes.merge(other.extremes),
            _merged(self.histogram, other.histogram),
            _merged(self.channel_histogram, other.channel_histogram),
            _merged(self.margins, other.margins),
        )

    def to_bytes(self) -> bytes:
        """See `Canonical.to_bytes`."""
        parts = (self.extremes, self.histogram, self.channel_histogram, self.margins)
        head = f"TensorSketch\0{sorted(asdict(self.spec).items())}\0".encode()
        return head + b"".join(b"-" if part is None else b"+" + part.to_bytes() for part in parts)


def row_channel_axis(shape: tuple[int, ...], spec: SketchSpec) -> int | None:
    """The channel axis for the margins of a tensor of that shape: None, for one channel, unless the spec is per
    channel, and where the rows themselves run along the channels."""
    if not spec.per_channel or spec.channel_axis is None or spec.isotone_axis is None:
        return None
    axis = positive_axis(spec.channel_axis, shape, "channel_axis")
    return None if axis == positive_axis(spec.isotone_axis, shape, "isotone_axis") else axis


def _merged(one: Any, other: Any) -> Any:
    return None if one is None else one.merge(other)
