"""How activations are calibrated, and how weights are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from calibrant.core import RoundingPolicy
from calibrant.settings.base import Setting


@dataclass
class QuantizeActivationSetting(Setting):
    """How activations are calibrated.

    calib_algorithm: a registered method; None: the platform's own.
    num_of_bits: 2 to 16. per_channel: one scale per channel (few runtimes take it).
    symmetric: None, the platform's own.
    activation_type: int8 or uint8; None: the platform's own. power_of_2: scales are powers of two.
    percentile: for the percentile method, share of the values inside the range.
    reduce_range: weights keep one bit less, but in depthwise convolutions, for processors on which sums of uint8 x int8
        saturate (x86 without VNNI).
    ignore_nonfinite: calibrate on the finite values where there are NaN or Inf as well, instead of an error.
    mask: the input [batch, sequence], such as attention_mask, that is 0 at padded positions; these do not count in the
        statistics. None: all positions count.
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
    mask: str | None = None
    rounding: str | None = None


@dataclass
class QuantizeParameterSetting(Setting):
    """How weights are quantized: calib_algorithm minmax or mse (None: the platform's own), 2 to 16 bits, per channel.

    quantize_passive_parameter: biases become integers, where the platform takes them.
    balanced_rounding: weights are rounded so that their errors cancel where they are added up; False: to the nearest.
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
    balanced_rounding: bool = True
    quantize_passive_parameter: bool = True
    baking_parameter: bool = True
