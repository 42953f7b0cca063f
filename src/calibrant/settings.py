"""QuantizationSetting: what a user decides. Typed, validated when it is assigned, to and from JSON. PPQ's names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from calibrant.core import RoundingPolicy, SettingError, TargetPlatform, unknown


@dataclass
class _Setting:
    """Fields that refuse an unknown name or a value of the wrong type, when they are assigned."""

    _choices: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        hints = _hints(type(self))
        if name not in hints:
            raise SettingError(unknown(f"key of {type(self).__name__}", name, hints))
        where = f"{type(self).__name__}.{name}"
        if not _is_a(value, hints[name]):
            raise SettingError(f"{where} takes {_spell(hints[name])}, got {value!r} ({type(value).__name__})")
        choices = self._choices.get(name)
        if choices and value not in choices:
            raise SettingError(f"{where} takes one of {', '.join(map(str, choices))}; got {value!r}")
        super().__setattr__(name, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `from_dict` reads it back."""
        return {name: _plain(getattr(self, name)) for name in _hints(type(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A setting with the given keys; those left out keep their defaults. An unknown key is a SettingError."""
        setting = cls()
        hints = _hints(cls)
        for name, value in data.items():
            kind = hints.get(name)
            read = getattr(kind, "from_dict", None)
            if read is not None and not isinstance(value, Mapping):
                raise SettingError(f"{cls.__name__}.{name} takes a mapping, got {value!r}")
            setattr(setting, name, read(value) if read is not None else _read(value, kind))
        return setting


@dataclass
class QuantizeActivationSetting(_Setting):
    """How activations are calibrated.

    calib_algorithm: a registered method; None: the platform's own.
    num_of_bits: 2 to 16. per_channel: one scale per channel (few runtimes take it).
    symmetric: None, the platform's own.
    activation_type: int8 or uint8; None: the platform's own. power_of_2: scales are powers of two.
    percentile: for the percentile method, share of the values inside the range.
    reduce_range: weights keep one bit less, for processors on which uint8 x int8 sums saturate (x86 without VNNI).
    ignore_nonfinite: calibrate on the finite values where there are NaN or Inf as well, instead of an error.
    rounding: name of a RoundingPolicy; None: the platform's own (ROUND_HALF_EVEN).
    """

    _choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "num_of_bits": tuple(range(2, 17)),
        "activation_type": (None, "int8", "uint8"),
        "rounding": (None, *(p.name for p in RoundingPolicy)),
    }

    calib_algorithm: str | None = None
    num_of_bits: int = 8
    per_channel: bool = False
    symmetric: bool | None = None
    activation_type: str | None = None
    power_of_2: bool = False
    percentile: float = 0.9999
    reduce_range: bool = False
    ignore_nonfinite: bool = False
    rounding: str | None = None


@dataclass
class QuantizeParameterSetting(_Setting):
    """How weights are quantized: calib_algorithm minmax or mse (None: the platform's own), 2 to 16 bits, per channel.

    quantize_passive_parameter: biases become integers, where the platform takes them.
    baking_parameter: weights are stored as integers; False is PPQ's way of keeping float weights beside their scales.
    """

    _choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "num_of_bits": tuple(range(2, 17)),
        "calib_algorithm": (None, "minmax", "mse"),
    }

    calib_algorithm: str | None = None
    num_of_bits: int = 8
    per_channel: bool = True
    power_of_2: bool = False
    quantize_passive_parameter: bool = True
    baking_parameter: bool = True


@dataclass
class DispatchingTable(_Setting):
    """Which operation runs where: a name, op type or regular expression, and a platform; FP32 leaves it in float."""

    dispatchings: dict[str, str] = field(default_factory=dict)

    def append(self, operation: str, platform: TargetPlatform | str) -> None:
        """Send `operation` to `platform`."""
        self.dispatchings[operation] = TargetPlatform.of(platform).name

    def __iter__(self) -> Iterator[tuple[str, TargetPlatform]]:
        return ((name, TargetPlatform.of(platform)) for name, platform in self.dispatchings.items())

    def __len__(self) -> int:
        return len(self.dispatchings)


@dataclass
class QuantizationSetting(_Setting):
    """Everything a user decides about one quantization. `QuantizationSettingFactory.default_setting()` makes one.

    leave_in_float, only: node names, op types or regular expressions; one that matches nothing is an error.
    overrides: value name or pattern -> {"num_of_bits", "calib_algorithm", "symmetric"} for those values alone.
    exact_simulation: scales are moved, by 0.1 % at most, to where a simulation and integer kernels agree bit for bit.
    equalization, bias_correct, lsq_optimization: PPQ's optional passes; not part of this version, True is refused.

    >>> setting = QuantizationSetting()
    >>> setting.quantize_activation_setting.calib_algorithm = "kl"
    >>> QuantizationSetting.from_json(setting.to_json()) == setting
    True
    """

    quantize_activation: bool = True
    quantize_activation_setting: QuantizeActivationSetting = field(default_factory=QuantizeActivationSetting)
    quantize_parameter: bool = True
    quantize_parameter_setting: QuantizeParameterSetting = field(default_factory=QuantizeParameterSetting)
    fusion: bool = True
    exact_simulation: bool = True
    equalization: bool = False
    bias_correct: bool = False
    lsq_optimization: bool = False
    dispatching_table: DispatchingTable = field(default_factory=DispatchingTable)
    leave_in_float: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("equalization", "bias_correct", "lsq_optimization") and value:
            raise SettingError(f"QuantizationSetting.{name}: this pass is not part of this version; leave it False")
        if name == "overrides" and isinstance(value, Mapping):
            for pattern, changes in value.items():
                check_override(pattern, changes)
        super().__setattr__(name, value)

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


OVERRIDE_KEYS: dict[str, type] = {"num_of_bits": int, "calib_algorithm": str, "symmetric": bool}


def check_override(pattern: str, changes: object) -> None:
    """Raise SettingError unless `changes` is a mapping of known override keys to values of their type."""
    if not isinstance(changes, Mapping) or not changes:
        keys = ", ".join(OVERRIDE_KEYS)
        raise SettingError(f"the override of '{pattern}' takes a mapping of {keys}; got {changes!r}")
    for key, value in changes.items():
        if key not in OVERRIDE_KEYS:
            raise SettingError(unknown(f"key in the override of '{pattern}'", str(key), OVERRIDE_KEYS))
        if not _is_a(value, OVERRIDE_KEYS[key]):
            raise SettingError(f"the override of '{pattern}': {key} takes {OVERRIDE_KEYS[key].__name__}, got {value!r}")


def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is UnionType:
        return any(_is_a(value, k) for k in get_args(kind))
    if kind is Any:
        return True
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(v, get_args(kind)[0]) for v in value)
    if get_origin(kind) is dict:
        of_key, of_value = get_args(kind)
        return isinstance(value, dict) and all(_is_a(k, of_key) and _is_a(v, of_value) for k, v in value.items())
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _spell(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        return " or ".join(_spell(k) for k in get_args(kind))
    return "null" if kind is NoneType else str(kind) if get_args(kind) else kind.__name__


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, _Setting) else value


def _read(value: Any, kind: Any) -> Any:
    return float(value) if kind is float and isinstance(value, int) and not isinstance(value, bool) else value
