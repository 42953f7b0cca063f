"""From a table and a setting to the config of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from calibrant.core import QuantizationProperty as P
from calibrant.core import QuantizationStates, RoundingPolicy, SettingError, TensorQuantizationConfig
from calibrant.graph.weights import is_transposed
from calibrant.quantizers.rows import Grid, Table
from calibrant.settings import QuantizationSetting

FOR_SAMPLES = ("kl", "percentile", "isotone")  # methods for what is seen in part, unlike a constant
REDUCED = 64  # weights within +-64: the sum of two products with 8-bit activations fits 16 bits, also unsigned ones


def activation_grid(table: Table, setting: QuantizationSetting, symmetric: bool | None = None) -> Grid:
    """The grid of activations. symmetric: for one value; None: as the setting, or else the platform, has it.

    Raises SettingError for a wish that the platform, or the grid, cannot fulfil.
    """
    asked = setting.quantize_activation_setting
    if symmetric is None:
        symmetric = asked.symmetric
    name = table.platform.name
    if table.symmetric_only and (symmetric is False or asked.activation_type == "uint8"):
        raise SettingError(
            f"{name} takes symmetric int8 activations alone: leave `symmetric` and `activation_type` out"
        )
    symmetric = table.activation.symmetric if symmetric is None else symmetric
    if symmetric and asked.activation_type == "uint8":
        raise SettingError("symmetric activations need integers below 0: use activation_type int8, or symmetric False")
    signed = table.activation.signed or symmetric if asked.activation_type is None else asked.activation_type == "int8"
    return replace(table.activation, signed=signed, symmetric=symmetric, narrow=table.activation.narrow and symmetric)


def activation_config(
    table: Table, setting: QuantizationSetting, axis: int | None, changes: Mapping[str, Any], method: str
) -> TensorQuantizationConfig:
    """A config for an activation, state INITIAL.

    axis: of its channels, for one scale each; None: per tensor. changes: the overrides for this value.
    method: the platform's own for it.
    """
    asked = setting.quantize_activation_setting
    grid = activation_grid(table, setting, changes.get("symmetric"))
    bits = int(changes.get("num_of_bits", asked.num_of_bits))
    if not 2 <= bits <= table.most_bits:
        raise SettingError(f"{table.platform.name} takes activations of 2 to {table.most_bits} bits, got {bits}")
    low, high = grid.limits(bits)
    own = changes.get("calib_algorithm") or _asked_method(setting)
    detail: dict[str, Any] = {"percentile": asked.percentile, "ignore_nonfinite": asked.ignore_nonfinite}
    if own is None or own.casefold() == "auto":
        detail["smoothed_method"] = table.smoothed_method
    return TensorQuantizationConfig(
        _policy(axis, grid.symmetric, asked.power_of_2),
        rounding=RoundingPolicy[asked.rounding] if asked.rounding else RoundingPolicy.ROUND_HALF_EVEN,
        num_of_bits=bits,
        quant_min=low,
        quant_max=high,
        observer_algorithm=own or method,
        detail=detail,
        channel_axis=axis,
    )


def _asked_method(setting: QuantizationSetting) -> str | None:
    """The user's method for all values; not isotone: RuntimeCalibrationPass gives it to those that carry an order."""
    asked = setting.quantize_activation_setting.calib_algorithm
    return None if asked is None or asked.casefold() == "isotone" else asked


def weight_config(
    table: Table, setting: QuantizationSetting, axis: int | None, changes: Mapping[str, Any], reduced: bool
) -> TensorQuantizationConfig:
    """A config for a weight, state INITIAL; per channel along `axis` unless it is None or the setting says not to.

    reduced: weights of 8 bits stay within +-64.
    """
    asked = setting.quantize_parameter_setting
    if changes.get("symmetric") is False:
        raise SettingError("weights are symmetric on every platform: leave `symmetric` out of the override")
    method = changes.get("calib_algorithm")
    if method is not None and method.casefold() in (*FOR_SAMPLES, "auto"):
        raise SettingError(
            f"a weight is known as a whole, and '{method}' is for what is only sampled: override its method by minmax "
            "or mse, or one of your own"
        )
    bits = int(changes.get("num_of_bits", asked.num_of_bits))
    if not 2 <= bits <= table.most_bits:
        raise SettingError(f"{table.platform.name} takes weights of 2 to {table.most_bits} bits, got {bits}")
    low, high = table.weight.limits(bits)
    if reduced and bits == 8:
        low, high = -REDUCED, REDUCED
    axis = axis if asked.per_channel else None
    return TensorQuantizationConfig(
        _policy(axis, True, asked.power_of_2),
        num_of_bits=bits,
        quant_min=low,
        quant_max=high,
        observer_algorithm=method or asked.calib_algorithm or table.weight_method,
        channel_axis=axis,
    )


def bias_config(weight: TensorQuantizationConfig) -> TensorQuantizationConfig:
    """A config for the bias beside that weight: int32, state PASSIVE_INIT; its scale follows from theirs."""
    axis = 0 if weight.is_per_channel else None
    return TensorQuantizationConfig(
        _policy(axis, True, False),
        num_of_bits=32,
        quant_min=-(2**31),
        quant_max=2**31 - 1,
        channel_axis=axis,
        state=QuantizationStates.PASSIVE_INIT,
    )


def constant_config(data: TensorQuantizationConfig) -> TensorQuantizationConfig:
    """A config for a constant on the scale of `data`: the same grid, state PASSIVE_INIT."""
    return data.clone(scale=None, offset=None, state=QuantizationStates.PASSIVE_INIT)


def float_config() -> TensorQuantizationConfig:
    """For an edge whose reader takes the float value."""
    return TensorQuantizationConfig(_policy(None, True, False), state=QuantizationStates.FP32)


def _policy(axis: int | None, symmetric: bool, power_of_2: bool) -> P:
    policy = P.LINEAR | (P.PER_TENSOR if axis is None else P.PER_CHANNEL)
    policy |= P.SYMMETRICAL if symmetric else P.ASYMMETRICAL
    return policy | P.POWER_OF_2 if power_of_2 else policy


def weight_axis(node: ir.Node, index: int) -> int | None:
    """The axis of a weight that holds the output channels; None where one scale for each is not possible.

    None for the weight of a grouped ConvTranspose, (in, out / group, ...), in which an output channel has no index of
    its own; for a weight on the left of a MatMul, whose rows come out as rows; for a vector, and for a stack of
    matrices, which no runtime's integer product takes with scales of channels.
    """
    weight = node.inputs[index]
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 0
    group: int = node.attributes.get_int("group", 1)
    if index == 0:
        return None
    if node.op_type == "ConvTranspose":
        return 1 if group == 1 else None
    if node.op_type == "Gemm":
        return 0 if is_transposed(node) else 1
    if node.op_type == "MatMul":
        return 1 if rank == 2 else None
    return 0


def takes_integer_bias(node: ir.Node, weight: TensorQuantizationConfig) -> bool:
    """Whether input scale x weight scale is the scale of the products that this bias is added to, one per channel."""
    bias, kernel = node.inputs[2], node.inputs[1]
    if bias is None or bias.const_value is None or kernel is None or kernel.const_value is None:
        return False
    scaled = any(node.attributes.get_float(key, 1.0) != 1 for key in ("alpha", "beta"))
    if scaled or bias.const_value.dtype != ir.DataType.FLOAT or len(bias.const_value.shape) != 1:
        return False
    channels = kernel.const_value.numpy().shape[weight.channel_axis] if weight.channel_axis is not None else None
    return channels is None or bias.const_value.size == channels
