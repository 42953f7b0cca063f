"""QuantizationSetting: what a user decides. Typed, validated when it is assigned, to and from JSON. PPQ's names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from calibrant.core import SettingError
from calibrant.settings.base import Setting
from calibrant.settings.calibration import QuantizeActivationSetting, QuantizeParameterSetting
from calibrant.settings.exceptions import DispatchingTable, check_override
from calibrant.settings.passes import (
    BiasCorrectSetting,
    BlockwiseReconstructionSetting,
    EqualizationSetting,
    LSQSetting,
    OutputRefinementSetting,
    SmoothQuantSetting,
)

EFFORTS = ("default", "high")
HIGH = ("equalization", "smooth_quant", "blockwise_reconstruction", "output_refinement", "bias_correct")  # fields


@dataclass
class QuantizationSetting(Setting):
    """Everything a user decides about one quantization. `QuantizationSettingFactory.default_setting()` makes one.

    leave_in_float, only: node names, op types or regular expressions; one that matches nothing is an error.
    target_sqnr: dB at the outputs that the quantized model has to reach. max_drop: by how much it may be below the
        float model in a metric of the user's own. As many operations stay in float as that takes; None: no target.
    most_in_float: how many operations may stay in float for that. Without a target: so many stay in float at most,
        those that bring most dB at the outputs; None: no limit.
    overrides: value name or pattern -> {"num_of_bits", "calib_algorithm", "symmetric"} for those values alone.
    exact_simulation: scales are moved, by 0.1 % at most, to where a simulation and integer kernels agree bit for bit.
    effort: "default", or "high": more accurate, and slower. What that is, pass by pass, can be said as well:
    equalization, smooth_quant, blockwise_reconstruction, lsq_optimization, output_refinement, bias_correct: True or
        False; None: as the effort says. Each has its own setting beside it.

    >>> setting = QuantizationSetting()
    >>> setting.quantize_activation_setting.calib_algorithm = "kl"
    >>> QuantizationSetting.from_json(setting.to_json()) == setting
    True
    """

    _choices: ClassVar[dict[str, tuple[Any, ...]]] = {"effort": EFFORTS}

    quantize_activation: bool = True
    quantize_activation_setting: QuantizeActivationSetting = field(default_factory=QuantizeActivationSetting)
    quantize_parameter: bool = True
    quantize_parameter_setting: QuantizeParameterSetting = field(default_factory=QuantizeParameterSetting)
    fusion: bool = True
    exact_simulation: bool = True
    effort: str = "default"
    target_sqnr: float | None = None
    max_drop: float | None = None
    most_in_float: int | None = None
    equalization: bool | None = None
    equalization_setting: EqualizationSetting = field(default_factory=EqualizationSetting)
    smooth_quant: bool | None = None
    smooth_quant_setting: SmoothQuantSetting = field(default_factory=SmoothQuantSetting)
    blockwise_reconstruction: bool | None = None
    blockwise_reconstruction_setting: BlockwiseReconstructionSetting = field(
        default_factory=BlockwiseReconstructionSetting
    )
    lsq_optimization: bool | None = None
    lsq_optimization_setting: LSQSetting = field(default_factory=LSQSetting)
    output_refinement: bool | None = None
    output_refinement_setting: OutputRefinementSetting = field(default_factory=OutputRefinementSetting)
    bias_correct: bool | None = None
    bias_correct_setting: BiasCorrectSetting = field(default_factory=BiasCorrectSetting)
    dispatching_table: DispatchingTable = field(default_factory=DispatchingTable)
    leave_in_float: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("target_sqnr", "max_drop") and isinstance(value, float) and not math.isfinite(value):
            raise SettingError(f"QuantizationSetting.{name} takes a finite number, got {value}")
        if name == "max_drop" and isinstance(value, int | float) and value < 0:
            raise SettingError(f"QuantizationSetting.max_drop is by how much a metric may fall, 0 or more; got {value}")
        if name == "most_in_float" and isinstance(value, int) and value < 0:
            raise SettingError(f"QuantizationSetting.most_in_float is a number of operations, 0 or more; got {value}")
        if name == "overrides" and isinstance(value, Mapping):
            for pattern, changes in value.items():
                check_override(pattern, changes)
        super().__setattr__(name, value)

    @classmethod
    def of(cls, setting: QuantizationSetting | None) -> QuantizationSetting:
        """A copy, checked anew, as lists may have been added to; None: the default. SettingError for anything else."""
        if setting is None:
            return cls()
        if not isinstance(setting, QuantizationSetting):
            raise SettingError(
                f"setting takes a QuantizationSetting, got {type(setting).__name__}: QuantizationSetting.from_dict, "
                "from_json and from_file make one"
            )
        return setting.from_dict(setting.to_dict())

    @property
    def has_target(self) -> bool:
        """Whether operations are to be left in float: as many as a target takes, or for more dB."""
        return any(asked is not None for asked in (self.target_sqnr, self.max_drop, self.most_in_float))

    def wants(self, optimization: str) -> bool:
        """Whether that optional pass, by the name of its field, is to run."""
        said: bool | None = getattr(self, optimization)
        return said if said is not None else self.effort == "high" and optimization in HIGH

    def to_json(self) -> str:
        """JSON text; the keys are the field names."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The setting of that JSON text. Raises SettingError for what is not JSON, unknown keys and wrong types."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingError(f"the setting is not JSON: {error}") from None
        if not isinstance(data, Mapping):
            raise SettingError(f"a setting is a JSON object, got {type(data).__name__}")
        return cls.from_dict(data)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The setting in that JSON file. Raises SettingError naming the file."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"cannot read the setting file {path}: {error}") from None
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from None


class QuantizationSettingFactory:
    """Makes settings to start from."""

    @staticmethod
    def default_setting() -> QuantizationSetting:
        """8 bits, per-channel weights, the platform's own calibration method."""
        return QuantizationSetting()
