"""From a table and a setting to the config of one tensor."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from calibrant.core import (
    QuantizationProperty as P,
)
from calibrant.core import (
    QuantizationStates,
    RoundingPolicy,
    TensorQuantizationConfig,
)
from calibrant.quantizers.rows import Table

FP32_POLICY = P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL


def activation_config(table: Table, setting: Any) -> TensorQuantizationConfig:
    """A config for an activation, state INITIAL."""
    asked = setting.quantize_activation_setting
    low, high = table.activation.limits(asked.num_of_bits)
    return TensorQuantizationConfig(
        P.PER_TENSOR | P.LINEAR | (P.SYMMETRICAL if table.activation.symmetric else P.ASYMMETRICAL),
        num_of_bits=asked.num_of_bits,
        quant_min=low,
        quant_max=high,
        observer_algorithm=asked.calib_algorithm or table.method,
        rounding=RoundingPolicy[asked.rounding] if asked.rounding else RoundingPolicy.ROUND_HALF_EVEN,
        detail={"percentile": asked.percentile, "ignore_nonfinite": asked.ignore_nonfinite},
    )


def weight_config(table: Table, setting: Any, axis: int | None) -> TensorQuantizationConfig:
    """A config for a weight, state INITIAL; per channel along `axis` unless it is None or the setting says not to."""
    asked = setting.quantize_parameter_setting
    low, high = table.weight.limits(asked.num_of_bits)
    axis = axis if asked.per_channel else None
    return TensorQuantizationConfig(
        (P.PER_TENSOR if axis is None else P.PER_CHANNEL) | P.LINEAR | P.SYMMETRICAL,
        num_of_bits=asked.num_of_bits,
        quant_min=low,
        quant_max=high,
        observer_algorithm=asked.calib_algorithm or "minmax",
        channel_axis=axis,
    )


def bias_config(weight: TensorQuantizationConfig) -> TensorQuantizationConfig:
    """A config for the bias beside that weight: int32, state PASSIVE_INIT; its scale follows from theirs."""
    per_channel = weight.is_per_channel
    return TensorQuantizationConfig(
        (P.PER_CHANNEL if per_channel else P.PER_TENSOR) | P.LINEAR | P.SYMMETRICAL,
        num_of_bits=32,
        quant_min=-(2**31),
        quant_max=2**31 - 1,
        channel_axis=0 if per_channel else None,
        state=QuantizationStates.PASSIVE_INIT,
    )


def constant_config(data: TensorQuantizationConfig) -> TensorQuantizationConfig:
    """A config for a constant on the scale of `data`: the same grid, state PASSIVE_INIT."""
    return data.clone(scale=None, offset=None, state=QuantizationStates.PASSIVE_INIT)


def float_config() -> TensorQuantizationConfig:
    """For an edge whose reader takes the float value."""
    return TensorQuantizationConfig(FP32_POLICY, state=QuantizationStates.FP32)


def weight_axis(node: ir.Node, index: int, rank: int) -> int | None:
    """The axis of a weight along which each output channel has numbers of its own; None where none is usable."""
    if node.op_type == "ConvTranspose":
        group = node.attributes.get_int("group", 1)
        return 1 if group == 1 else None
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    if node.op_type == "MatMul":
        return rank - 1 if index == 1 and rank >= 2 else None
    return 0
