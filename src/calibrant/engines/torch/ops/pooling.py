"""Pooling over windows, and over everything."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from calibrant.engines.torch.ops.padding import Pads, amounts, resolve
from calibrant.engines.torch.ops.registry import Call, Tensor, Unsupported, op
from calibrant.engines.torch.tensors import widened

_MAX: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True, slots=True)
class _Windows:
    """Where the windows lie. tail: what ceil_mode adds behind the pads, so that the last window is whole."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads
    tail: Pads

    @classmethod
    def of(
        cls,
        x: Tensor,
        auto_pad: str,
        kernel_shape: Sequence[int],
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        ceil_mode: int,
    ) -> _Windows:
        rank = len(kernel_shape)
        if rank not in _MAX:
            raise Unsupported(f"{rank} spatial axes")
        kernel, steps = tuple(kernel_shape), tuple(strides or [1] * rank)
        spread = tuple(dilations or [1] * rank)
        both = resolve(auto_pad, pads, x.shape[2:], kernel, steps, spread)
        tail = [0] * rank
        for axis, size in enumerate(x.shape[2:]):
            free = size + both.before[axis] + both.after[axis] - spread[axis] * (kernel[axis] - 1) - 1
            rest = free % steps[axis]
            start_of_last = -(-free // steps[axis]) * steps[axis]
            if ceil_mode and rest and start_of_last < size + both.before[axis]:  # else it would lie in padding alone
                tail[axis] = steps[axis] - rest
        return cls(kernel, steps, spread, both, Pads([0] * rank, tail))

    @property
    def plain(self) -> bool:
        """Whether torch can pad by itself: evenly, and by no more than half a window."""
        inside = all(2 * b <= k for b, k in zip(self.pads.before, self.kernel, strict=True))
        return self.pads.even and not any(self.tail.after) and inside

    def padded(self, x: Tensor, value: float) -> Tensor:
        """With what the windows reach beyond `x`."""
        return F.pad(F.pad(x, amounts(self.pads), value=value), amounts(self.tail), value=value)

    def gathered(self, padded: Tensor) -> Tensor:
        """A view [n, c, places..., window...] of the padded tensor."""
        n, c, *strides = padded.stride()
        counts = [
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(padded.shape[2:], self.kernel, self.strides, self.dilations, strict=True)
        ]
        apart = [stride * s for stride, s in zip(strides, self.strides, strict=True)]
        within = [stride * d for stride, d in zip(strides, self.dilations, strict=True)]
        return padded.as_strided((*padded.shape[:2], *counts, *self.kernel), (n, c, *apart, *within))


@op("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    call: Call,
) -> Tensor | tuple[Tensor, Tensor]:
    w = _Windows.of(x, auto_pad, kernel_shape, strides, dilations, pads, ceil_mode)
    pool = _MAX[len(w.kernel)]
    if not x.is_floating_point():
        return _max_of_integers(x, w, call)
    if w.plain:
        options = {"padding": tuple(w.pads.before), "dilation": w.dilations}
    else:
        x, options = w.padded(x, float("-inf")), {"dilation": w.dilations}
    if call.outputs == 1:
        return pool(x, w.kernel, w.strides, **options)
    if storage_order or not w.plain:
        raise Unsupported("places of the largest in column order, or of an unevenly padded tensor")
    values, places = pool(x, w.kernel, w.strides, **options, return_indices=True)
    planes = torch.arange(math.prod(x.shape[:2]), device=x.device) * math.prod(x.shape[2:])
    return values, places + planes.reshape(*x.shape[:2], *[1] * len(w.kernel))


def _max_of_integers(x: Tensor, windows: _Windows, call: Call) -> Tensor:
    if call.outputs > 1:
        raise Unsupported("places of the largest integer")
    low = torch.iinfo(x.dtype).min
    gathered = windows.gathered(windows.padded(x, low))
    return gathered.amax(tuple(range(-len(windows.kernel), 0)))


@op("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Over what lies in the tensor, with count_include_pad in its pads as well; never over what ceil_mode adds."""
    w = _Windows.of(x, auto_pad, kernel_shape, strides, dilations, pads, ceil_mode)
    if w.plain and set(w.dilations) == {1}:
        pool = _AVERAGE[len(w.kernel)]
        padding = tuple(w.pads.before)
        return pool(x, w.kernel, w.strides, padding, count_include_pad=bool(count_include_pad))
    window = tuple(range(-len(w.kernel), 0))
    counted = torch.ones_like(x[:1, :1])
    counted = F.pad(F.pad(counted, amounts(w.pads), value=float(count_include_pad)), amounts(w.tail))
    return w.gathered(w.padded(x, 0)).sum(window) / w.gathered(counted).sum(window)


@op("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    w = _Windows.of(x, auto_pad, kernel_shape, strides, dilations, pads, ceil_mode)
    powers = w.gathered(w.padded(widened(x), 0)).abs() ** p
    return (powers.sum(tuple(range(-len(w.kernel), 0))) ** (1 / p)).to(x.dtype)


def _enter_global(name: str, pool: Callable[[Tensor, tuple[int, ...]], Tensor]) -> None:
    op(name)(lambda x: pool(x, tuple(range(2, x.ndim))))


_enter_global("GlobalAveragePool", lambda x, axes: x.mean(axes, keepdim=True))
_enter_global("GlobalMaxPool", lambda x, axes: x.amax(axes, keepdim=True))


@op("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    return ((widened(x).abs() ** p).sum(tuple(range(2, x.ndim)), keepdim=True) ** (1 / p)).to(x.dtype)
