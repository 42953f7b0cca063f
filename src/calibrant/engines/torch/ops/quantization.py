"""Operators on integers that stand for reals: real = (integer - zero point) * scale."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from calibrant.engines.torch.ops.convolution import conv_integer
from calibrant.engines.torch.ops.elementwise import converted
from calibrant.engines.torch.ops.linear import matmul_integer
from calibrant.engines.torch.ops.registry import Call, Tensor, Unsupported, op
from calibrant.engines.torch.tensors import NARROW


def _along(values: Tensor, like: Tensor, axis: int, block_size: int) -> Tensor:
    """Scale or zero point shaped to broadcast: one for all, one for each place on the axis, or one for each block."""
    if block_size:
        repeated = values.repeat_interleave(block_size, axis)
        return repeated.narrow(axis, 0, like.shape[axis])
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if place == axis % like.ndim else 1 for place in range(like.ndim)])


def to_grid(x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int) -> Tensor:
    """Integers, as floats: halves are rounded to even, what lies beyond the ends saturates."""
    rounded = torch.round(x / scale)
    return torch.clamp(rounded if zero_point is None else rounded + zero_point, low, high)


@op("QuantizeLinear")
@op("QuantizeLinear", domain="com.microsoft")
def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    call: Call,
) -> Tensor:
    """Computed in float32. Floats of eight bits have no zero point but 0."""
    kind = ir.DataType(output_dtype or ir.DataType.UINT8)
    dtype = zero_point.dtype if zero_point is not None and not output_dtype else call.dtype(kind)
    if precision not in (0, ir.DataType.FLOAT):
        raise Unsupported("a precision of its own")
    if dtype.is_floating_point:
        return converted(x.to(torch.float32) / _along(scale, x, axis, block_size), dtype, bool(saturate))
    limits = torch.iinfo(dtype)
    low, high = NARROW.get(kind, (limits.min, limits.max))
    spread = _along(scale, x, axis, block_size).to(torch.float32)
    shift = None if zero_point is None else _along(zero_point, x, axis, block_size).to(torch.float32)
    return to_grid(x.to(torch.float32), spread, shift, low, high).to(dtype)


@op("DequantizeLinear")
@op("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    call: Call,
) -> Tensor:
    integers = x.to(torch.float32) if x.is_floating_point() else x.to(torch.int32)
    if zero_point is not None and not x.is_floating_point():
        integers = integers - _along(zero_point, x, axis, block_size).to(torch.int32)
    spread = _along(scale, x, axis, block_size)
    real = integers.to(torch.float32) * spread.to(torch.float32)
    return real.to(call.dtype(output_dtype) if output_dtype else scale.dtype)


@op("DynamicQuantizeLinear")
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To uint8, on the range of `x` widened to contain 0."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.clamp(torch.round(-low / scale), 0, 255)
    return to_grid(x, scale, zero_point, 0, 255).to(torch.uint8), scale, zero_point.to(torch.uint8)


def _requantized(total: Tensor, factor: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    limits = torch.iinfo(zero_point.dtype)
    shift = zero_point.to(torch.float64)
    return to_grid(total.to(torch.float64) * factor, scale.to(torch.float64), shift, limits.min, limits.max).to(
        zero_point.dtype
    )


@op("QLinearMatMul")
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    if a_zero_point.is_floating_point() or b_zero_point.is_floating_point():
        raise Unsupported(f"a grid of {a_zero_point.dtype}")
    rows = a_scale[:, None] if a_scale.ndim == 1 and a_scale.numel() > 1 else a_scale
    total = matmul_integer(a, b, a_zero_point, b_zero_point)
    return _requantized(total, rows.to(torch.float64) * b_scale, y_scale, y_zero_point)


@op("QLinearConv")
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    total = conv_integer(
        x, weight, x_zero_point, w_zero_point,
        auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides,
    )  # fmt: skip
    by_channel = (1, -1, *[1] * (weight.ndim - 2))
    if bias is not None:
        total = total + bias.reshape(by_channel)
    factor = x_scale.to(torch.float64) * w_scale.reshape(by_channel)
    return _requantized(total, factor, y_scale, y_zero_point)
