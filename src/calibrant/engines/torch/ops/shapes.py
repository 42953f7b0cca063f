"""Operators that make, move or repeat elements, and those that tell a shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.nn import functional as F

from calibrant.engines.torch.ops.registry import Call, Tensor, Unsupported, op
from calibrant.engines.torch.tensors import number, numbers, to_tensor

# --- the shape itself


@op("Shape")
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[slice(start, end)], dtype=torch.int64)


@op("Size")
def size_of(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


# --- the same elements in another shape


@op("Reshape", parameters=[1])
def reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """0 in `shape` keeps that dimension, unless allowzero."""
    sizes = [x.shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(numbers(shape))]
    return x.reshape(sizes)


@op("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op("Squeeze", parameters=[1])
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(numbers(axes)))


@op("Unsqueeze", parameters=[1])
def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    wanted = numbers(axes)
    rank = x.ndim + len(wanted)
    for axis in sorted(axis % rank for axis in wanted):
        x = x.unsqueeze(axis)
    return x


@op("Transpose")
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(tuple(reversed(range(x.ndim))) if perm is None else tuple(perm))


@op("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    if mode == "DCR":
        parts = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // (b * b), h * b, w * b)


@op("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    parts = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(order).reshape(n, c * b * b, h // b, w // b)


# --- parts and wholes


@op("Concat")
def concat(*values: Tensor, axis: int) -> Tensor:
    return torch.cat(values, axis)


@op("Split", parameters=[1])
def split(
    x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int | None = None, call: Call
) -> tuple[Tensor, ...]:
    """Without sizes: equal ones, the last one smaller."""
    if sizes is not None:
        return tuple(torch.split(x, numbers(sizes), axis))
    parts, size = num_outputs or call.outputs, x.shape[axis]
    each = -(-size // parts)
    return tuple(torch.split(x, [min(each, max(size - each * i, 0)) for i in range(parts)], axis))


@op("Slice", parameters=[1, 2, 3, 4])
def slice_of(
    x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first, last = numbers(starts), numbers(ends)
    which = list(range(len(first))) if axes is None else numbers(axes)
    by = [1] * len(first) if steps is None else numbers(steps)
    for axis, start, end, step in zip(which, first, last, by, strict=True):
        x = _slice_axis(x, axis % x.ndim, start, end, step)
    return x


def _slice_axis(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    start = max(start, -x.shape[axis]) if step < 0 else start  # before the first is the first, unlike in Python
    places = range(*slice(start, end, step).indices(x.shape[axis]))
    if len(places) == 0:
        return x.narrow(axis, 0, 0)
    if step < 0:
        places = places[::-1]
    index = [slice(None)] * axis + [slice(places[0], places[-1] + 1, places.step)]
    return x[tuple(index)].flip(axis) if step < 0 else x[tuple(index)]


@op("CenterCropPad", parameters=[1])
def center_crop_pad(x: Tensor, shape: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Half on each side; of an odd number one more at the end."""
    for axis, size in zip(range(x.ndim) if axes is None else axes, numbers(shape), strict=True):
        axis, surplus = axis % x.ndim, x.shape[axis] - size
        if surplus > 0:
            x = x.narrow(axis, surplus // 2, size)
        elif surplus < 0:
            x = _pad_axis_constant(x, axis, -surplus // 2, -surplus - (-surplus // 2), 0)
    return x


# --- padding


@op("Pad", parameters=[1, 2, 3])
def pad(
    x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *, mode: str = "constant"
) -> Tensor:
    """Negative pads take away."""
    amounts = numbers(pads)
    which = [axis % x.ndim for axis in (range(x.ndim) if axes is None else numbers(axes))]
    fill = number(value) if value is not None and value.numel() else 0
    for axis, before, after in zip(which, amounts, amounts[len(which) :], strict=False):
        if before == after == 0:
            continue
        if mode == "constant":
            x = _pad_axis_constant(x, axis, before, after, fill)
        else:
            x = x.index_select(axis, _sources(mode, x.shape[axis], before, after, x.device))
    return x


def _pad_axis_constant(x: Tensor, axis: int, before: int, after: int, value: Any) -> Tensor:
    amounts = [0, 0] * (x.ndim - 1 - axis) + [before, after]
    if x.dtype is torch.bool:
        return F.pad(x.to(torch.uint8), amounts, value=int(value)).to(torch.bool)
    return F.pad(x, amounts, value=value)


def _sources(mode: str, size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Which element each place of a padded axis repeats."""
    places = torch.arange(-before, size + after, device=device)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        places = places % period
        return torch.where(places < size, places, period - places)
    raise Unsupported(f"mode {mode}")


# --- repeating


@op("Expand", parameters=[1])
def expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(numbers(shape))))


@op("Tile", parameters=[1])
def tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(numbers(repeats))


# --- from nothing


@op("ConstantOfShape", parameters=[0])
def constant_of_shape(shape: Tensor, *, value: ir.TensorProtocol | None = None, call: Call) -> Tensor:
    if value is None:
        return torch.zeros(numbers(shape), dtype=call.floating, device=call.device)
    return torch.full(
        numbers(shape), number(to_tensor(value.numpy())), dtype=call.dtype(value.dtype), device=call.device
    )


@op("Range", parameters=[0, 1, 2])
def arange(start: Tensor, limit: Tensor, delta: Tensor, *, call: Call) -> Tensor:
    dtype = call.floating if start.dtype is torch.float32 else start.dtype
    count = max(math.ceil((number(limit) - number(start)) / number(delta)), 0)
    steps = torch.arange(count, device=call.device, dtype=torch.float64 if start.is_floating_point() else torch.int64)
    return (steps * number(delta) + number(start)).to(dtype)


@op("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0, call: Call) -> Tensor:
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    columns = torch.arange(x.shape[1], device=x.device)[None, :]
    return (columns - rows == k).to(x.dtype if dtype is None else call.dtype(dtype))


@op("Trilu", parameters=[1])
def trilu(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else number(k)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)
