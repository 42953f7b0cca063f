"""TensorQuantizationConfig: everything that is decided about one tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.core.errors import ConfigError
from calibrant.core.notebook import html_table
from calibrant.core.policy import QuantizationPolicy, QuantizationProperty, QuantizationStates, RoundingPolicy

F32 = NDArray[np.float32]
BIAS_BITS = 32  # of the sum of products that a bias is added to; nothing else has so many
MAX_RANK = 8  # no ONNX runtime we know of takes tensors of more dimensions


class TensorQuantizationConfig:
    """The policy, the integer grid, and, once solved, the scale and offset of a tensor.

    policy: QuantizationPolicy, or the properties that make one.
    num_of_bits: 2 to 16 (32 for a bias). quant_min, quant_max: the integers in use, both included; they lie within the
        signed or within the unsigned integers of that many bits. A signed grid may be narrow (-127..127).
    scale, offset: float32 arrays once solved, 0-d per tensor, (channels,) per channel; None before.
        real = (q - offset) * scale; offset is 0 throughout for a symmetric policy.
    observer_algorithm: the method that finds them, by its registered name, any case.
    detail: options of that method, e.g. {"percentile": 0.999}; also a place for notes of passes.
    channel_axis: the axis of PER_CHANNEL, -8..7; negative counts from the end. None per tensor.

    Raises ConfigError when the parts contradict each other; the message says which one to change.

    >>> P = QuantizationProperty
    >>> c = TensorQuantizationConfig(P.PER_TENSOR + P.LINEAR + P.SYMMETRICAL)
    >>> c.state.name, c.scale, c.levels
    ('INITIAL', None, 256)
    """

    def __init__(
        self,
        policy: QuantizationPolicy | QuantizationProperty | int,
        rounding: RoundingPolicy = RoundingPolicy.ROUND_HALF_EVEN,
        num_of_bits: int = 8,
        quant_min: int = -128,
        quant_max: int = 127,
        scale: ArrayLike | None = None,
        offset: ArrayLike | None = None,
        observer_algorithm: str = "minmax",
        detail: dict[str, Any] | None = None,
        channel_axis: int | None = None,
        state: QuantizationStates = QuantizationStates.INITIAL,
    ) -> None:
        self.policy = QuantizationPolicy(policy)
        self.rounding = RoundingPolicy(rounding)
        self.num_of_bits = int(num_of_bits)
        self.quant_min = int(quant_min)
        self.quant_max = int(quant_max)
        self.observer_algorithm = str(observer_algorithm)
        self.detail = dict(detail or {})
        self.channel_axis = channel_axis
        self.state = QuantizationStates(state)
        self._check_grid()
        self._check_axis()
        self.scale = scale
        self.offset = offset

    @property
    def scale(self) -> F32 | None:
        """float32: () per tensor, (channels,) per channel; None until solved."""
        return self._scale

    @scale.setter
    def scale(self, value: ArrayLike | None) -> None:
        self._scale = None if value is None else self._as_parameter("scale", value)
        if self._scale is not None and not (np.isfinite(self._scale) & (self._scale > 0)).all():
            raise ConfigError(f"scale must be positive and finite, got {self._scale}")

    @property
    def offset(self) -> F32 | None:
        """float32, whole numbers within the grid, of the shape of `scale`; None until solved."""
        return self._offset

    @offset.setter
    def offset(self, value: ArrayLike | None) -> None:
        self._offset = None if value is None else self._as_parameter("offset", value)
        if self._offset is None:
            return
        if not (self._offset == np.rint(self._offset)).all():
            raise ConfigError(f"offset must be whole, got {self._offset}")
        if self.is_symmetric and self._offset.any():
            raise ConfigError(f"a SYMMETRICAL policy has offset 0, got {self._offset}: make the policy ASYMMETRICAL")

    @property
    def is_symmetric(self) -> bool:
        return self.policy.has_property(QuantizationProperty.SYMMETRICAL)

    @property
    def is_per_channel(self) -> bool:
        return self.policy.has_property(QuantizationProperty.PER_CHANNEL)

    @property
    def is_power_of_2(self) -> bool:
        return self.policy.has_property(QuantizationProperty.POWER_OF_2)

    @property
    def is_signed(self) -> bool:
        """Whether the grid is stored as signed integers."""
        return self.quant_min < 0

    @property
    def is_bias(self) -> bool:
        """Whether it is that of a bias: integers of 32 bits."""
        return self.num_of_bits == BIAS_BITS

    @property
    def levels(self) -> int:
        """How many integers the grid has."""
        return self.quant_max - self.quant_min + 1

    def parameter_shape(self, rank: int) -> tuple[int, ...]:
        """The shape in which scale and offset broadcast against a tensor of that rank: () per tensor.

        Raises ConfigError where that rank has no channel_axis.
        """
        axis = self.channel_axis
        if axis is None:
            return ()
        if not -rank <= axis < rank:
            raise ConfigError(f"channel_axis {axis} does not fit a tensor of {rank} dimensions")
        return tuple(-1 if place == axis % rank else 1 for place in range(rank))

    def clone(self, **changes: Any) -> TensorQuantizationConfig:
        """A new config like this one, with `changes` to the constructor's arguments."""
        arguments: dict[str, Any] = {
            "policy": self.policy,
            "rounding": self.rounding,
            "num_of_bits": self.num_of_bits,
            "quant_min": self.quant_min,
            "quant_max": self.quant_max,
            "scale": self.scale,
            "offset": self.offset,
            "observer_algorithm": self.observer_algorithm,
            "detail": self.detail,
            "channel_axis": self.channel_axis,
            "state": self.state,
        }
        return TensorQuantizationConfig(**(arguments | changes))

    def __repr__(self) -> str:
        axis = f", channel_axis={self.channel_axis}" if self.is_per_channel else ""
        return (
            f"TensorQuantizationConfig({self.policy!r}, bits={self.num_of_bits}, [{self.quant_min}, {self.quant_max}]"
            f"{axis}, {self.observer_algorithm}, {self.state.name}, scale={self.scale}, offset={self.offset})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [
            ["policy", repr(self.policy)],
            ["grid", f"{self.num_of_bits} bits, {self.quant_min} to {self.quant_max}"],
            ["method", self.observer_algorithm],
            ["state", self.state.name],
            ["scale", _in_short(self.scale)],
            ["offset", _in_short(self.offset)],
        ]
        rows += [["channel axis", str(self.channel_axis)]] if self.is_per_channel else []
        return html_table("TensorQuantizationConfig", [], rows)

    def _check_grid(self) -> None:
        bits, lo, hi = self.num_of_bits, self.quant_min, self.quant_max
        if not (2 <= bits <= 16 or self.is_bias):
            raise ConfigError(f"num_of_bits must be 2 to 16 (32 for a bias), got {bits}")
        if lo >= hi:
            raise ConfigError(f"quant_min must be less than quant_max, got [{lo}, {hi}]")
        half = 1 << (bits - 1)
        if not ((-half <= lo and hi < half) or (lo >= 0 and hi < 2 * half)):
            kind = "asymmetric grid cannot hold its zero point" if not self.is_symmetric else "grid does not fit"
            raise ConfigError(
                f"{kind}: [{lo}, {hi}] lies neither in the signed {bits}-bit integers [{-half}, {half - 1}] nor in the "
                f"unsigned ones [0, {2 * half - 1}]; change quant_min and quant_max, or num_of_bits"
            )
        if self.is_symmetric and not lo <= 0 < hi:
            raise ConfigError(
                f"a SYMMETRICAL policy maps real 0 to integer 0, which [{lo}, {hi}] does not hold: use a grid with "
                "quant_min <= 0 < quant_max, or make the policy ASYMMETRICAL"
            )

    def _check_axis(self) -> None:
        axis = self.channel_axis
        if self.is_per_channel != (axis is not None):
            advice = "give the channel_axis" if axis is None else "leave channel_axis out, or make it PER_CHANNEL"
            raise ConfigError(f"{self.policy!r} with channel_axis={axis}: {advice}")
        if axis is not None and (not isinstance(axis, int) or not -MAX_RANK <= axis < MAX_RANK):
            raise ConfigError(f"channel_axis must be an integer in [{-MAX_RANK}, {MAX_RANK - 1}], got {axis!r}")

    def _as_parameter(self, name: str, value: ArrayLike) -> F32:
        array = np.array(value, np.float32)
        if array.ndim != int(self.is_per_channel) and array.size == 1 and not self.is_per_channel:
            array = array.reshape(())
        if array.ndim != int(self.is_per_channel):
            shape = "(channels,)" if self.is_per_channel else "()"
            raise ConfigError(f"{name} of {self.policy!r} has shape {shape}, got {array.shape}")
        return array


def _in_short(numbers: F32 | None) -> str:
    if numbers is None:
        return "not found yet"
    if numbers.size == 1:
        return f"{numbers.item():.7g}"
    return f"{numbers.size} of them, {numbers.min():.4g} to {numbers.max():.4g}" if numbers.size else "none"
