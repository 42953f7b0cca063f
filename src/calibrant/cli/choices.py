"""From the options to a QuantizationSetting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrant.core import SettingError
from calibrant.data.paths import missing
from calibrant.settings import QuantizationSetting


@dataclass(frozen=True)
class Choices:
    """What was said about the quantization; None, False and empty: not said."""

    setting: Path | None = None
    mask: str | None = None
    method: str | None = None
    bits: int | None = None
    weight_bits: int | None = None
    weight_method: str | None = None
    per_channel: bool | None = None
    per_channel_activations: bool = False
    symmetric: bool | None = None
    activation_type: str | None = None
    reduce_range: bool = False
    power_of_2: bool = False
    weights_only: bool = False
    percentile: float | None = None
    ignore_nonfinite: bool = False
    effort: str | None = None
    target_sqnr: float | None = None
    max_drop: float | None = None
    most_in_float: int | None = None
    equalize: bool | None = None
    smooth_quant: bool | None = None
    reconstruct: bool | None = None
    lsq: bool = False
    leave_in_float: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    overrides: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def to_setting(self) -> QuantizationSetting:
        """The setting of the file, or the default one, changed by the options.

        --leave-in-float, --only and --override are added to the file's. Raises SettingError for a file that cannot be
        read or has an unknown key, and for an option that would have no effect.
        """
        setting = self._from_file()
        activations, weights = setting.quantize_activation_setting, setting.quantize_parameter_setting
        for target, name, value in (
            (activations, "calib_algorithm", self.method),
            (activations, "num_of_bits", self.bits),
            (activations, "symmetric", self.symmetric),
            (activations, "activation_type", self.activation_type),
            (activations, "percentile", self.percentile),
            (activations, "per_channel", self.per_channel_activations or None),
            (activations, "reduce_range", self.reduce_range or None),
            (activations, "power_of_2", self.power_of_2 or None),
            (activations, "ignore_nonfinite", self.ignore_nonfinite or None),
            (activations, "mask", self.mask),
            (weights, "num_of_bits", self.weight_bits),
            (weights, "calib_algorithm", self.weight_method),
            (weights, "per_channel", self.per_channel),
            (weights, "power_of_2", self.power_of_2 or None),
            (setting, "effort", self.effort),
            (setting, "target_sqnr", self.target_sqnr),
            (setting, "max_drop", self.max_drop),
            (setting, "most_in_float", self.most_in_float),
            (setting, "equalization", self.equalize),
            (setting, "smooth_quant", self.smooth_quant),
            (setting, "blockwise_reconstruction", self.reconstruct),
            (setting, "lsq_optimization", self.lsq or None),
            (setting, "quantize_activation", False if self.weights_only else None),
        ):
            if value is not None:
                setattr(target, name, value)
        setting.leave_in_float = [*setting.leave_in_float, *self.leave_in_float]
        setting.only = [*setting.only, *self.only]
        setting.overrides = setting.overrides | merged(self.overrides)
        self._refuse_idle(setting)
        return setting

    def _from_file(self) -> QuantizationSetting:
        if self.setting is None:
            return QuantizationSetting()
        if not self.setting.exists():
            raise SettingError(missing(self.setting, "the setting file"))
        return QuantizationSetting.from_file(self.setting)

    def _refuse_idle(self, setting: QuantizationSetting) -> None:
        """An option that nothing would listen to is a mistake of whoever typed it."""
        methods = [setting.quantize_activation_setting.calib_algorithm]
        methods += [changes.get("calib_algorithm") for changes in setting.overrides.values()]
        if self.percentile is not None and methods[0] is not None and not {"percentile", "auto"} & set(methods):
            raise SettingError("--percentile is for the percentile method: add --method percentile")
        if not self.weights_only:
            return
        for option, value in (
            ("--method", self.method),
            ("--bits", self.bits),
            ("--activation-type", self.activation_type),
            ("--per-channel-activations", self.per_channel_activations),
            ("--override", self.overrides),
            ("--mask", self.mask),
            ("--equalize", self.equalize),
            ("--smooth-quant", self.smooth_quant),
        ):
            if value:
                raise SettingError(f"{option} is about activations, and --weights-only leaves those in float")


def merged(overrides: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The overrides by pattern; what is said twice about one pattern adds up, the later word counting.

    >>> merged([("a", {"num_of_bits": 8}), ("a", {"symmetric": True}), ("a", {"num_of_bits": 16})])
    {'a': {'num_of_bits': 16, 'symmetric': True}}
    """
    found: dict[str, dict[str, Any]] = {}
    for pattern, changes in overrides:
        found[pattern] = found.get(pattern, {}) | changes
    return found
