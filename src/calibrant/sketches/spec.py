"""SketchSpec: what to remember of one value."""

from __future__ import annotations

from dataclasses import dataclass, fields

from calibrant.core import SettingError
from calibrant.sketches.bins import LogBins


@dataclass(frozen=True, slots=True)
class SketchSpec:
    """The settings of one value's sketch. Extremes are always kept.

    histogram, mantissa_bits: whether to keep the whole tensor's histogram, and the bins' fineness (see `LogBins`).
    channel_axis: where the channels are, or None where that is not known; negative counts from the end. Extremes are
        kept per channel where it is given.
    per_channel, channel_mantissa_bits: whether to keep a histogram (and margins) for each channel, and its fineness.
    isotone_axis: the axis of the rows whose margins are kept; None for no margins. Margins are kept per channel where
        per_channel is set, unless the rows run along the channels.

    Raises SettingError for bits out of range, for axes that are not integers, and for per_channel without channel_axis.
    """

    mantissa_bits: int = 8
    histogram: bool = True
    channel_axis: int | None = None
    per_channel: bool = False
    channel_mantissa_bits: int = 6
    isotone_axis: int | None = None

    def __post_init__(self) -> None:
        LogBins(self.mantissa_bits)
        LogBins(self.channel_mantissa_bits)
        for name in ("channel_axis", "isotone_axis"):
            axis = getattr(self, name)
            if axis is not None and (not isinstance(axis, int) or isinstance(axis, bool)):
                raise SettingError(f"{name} must be an integer or None, got {axis!r}")
        if self.per_channel and self.channel_axis is None:
            raise SettingError("per_channel needs to know the channels: give channel_axis, or leave per_channel out")

    def union(self, other: SketchSpec) -> SketchSpec:
        """A spec that collects what both need. SettingError where they need different things of one kind."""
        return SketchSpec(
            mantissa_bits=_joined("mantissa_bits", self, other, "histogram"),
            histogram=self.histogram or other.histogram,
            channel_axis=_joined("channel_axis", self, other),
            per_channel=self.per_channel or other.per_channel,
            channel_mantissa_bits=_joined("channel_mantissa_bits", self, other, "per_channel"),
            isotone_axis=_joined("isotone_axis", self, other),
        )

    def differences(self, other: SketchSpec) -> dict[str, tuple[object, object]]:
        """The settings by name, of this spec and of the other."""
        return {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}


def _joined(name: str, one: SketchSpec, other: SketchSpec, switch: str | None = None) -> int:
    """The setting `name` of whichever spec uses it: has `switch` on, or without a switch, has it not None."""
    a, b = getattr(one, name), getattr(other, name)
    uses_a = getattr(one, switch) if switch else a is not None
    uses_b = getattr(other, switch) if switch else b is not None
    if uses_a and uses_b and a != b:
        raise SettingError(f"two uses of one value need {name} {a} and {b}: give both the same")
    chosen: int = b if uses_b and not uses_a else a
    return chosen
