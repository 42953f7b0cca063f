"""Operators that make one element of many along axes, or of all before each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from calibrant.engines.torch.ops.registry import Tensor, op
from calibrant.engines.torch.tensors import in_order, number, numbers

Axes = list[int]
Reduce = Callable[[Tensor, Axes, bool], Tensor]


def _enter(name: str, reduce: Reduce) -> None:
    def reduced(x: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        which = numbers(axes)
        if not which and not noop_with_empty_axes:
            which = list(range(x.ndim))
        return reduce(x, in_order(which, x.ndim), bool(keepdims))

    op(name, parameters=[1])(reduced)


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype) if axes else x  # torch takes no axes for all of them


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if not axes:
        return x
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return x.to(torch.float64).mean(axes, keepdim=keep).to(x.dtype)


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _largest(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _extreme(torch.amax, -1, x, axes, keep)


def _smallest(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _extreme(torch.amin, 1, x, axes, keep)


def _extreme(find: Callable[..., Tensor], sign: int, x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Of nothing: the other end of the type."""
    if not axes:
        return x
    if all(x.shape[axis] for axis in axes):
        return find(x, axes, keepdim=keep)
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
    if x.dtype is torch.bool:
        end: float = sign > 0
    elif x.is_floating_point():
        end = sign * float("inf")
    else:
        end = torch.iinfo(x.dtype).max if sign > 0 else torch.iinfo(x.dtype).min
    return torch.full(shape, end, dtype=x.dtype, device=x.device)


def _norm(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Not the root of a sum: its gradient is NaN where all is zero."""
    floats = x if x.is_floating_point() else x.to(torch.float64)
    return (torch.linalg.vector_norm(floats, 2, axes, keepdim=keep) if axes else floats.abs()).to(x.dtype)


def _log_sum_exp(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    floats = x if x.is_floating_point() else x.to(torch.float64)
    return (torch.logsumexp(floats, axes, keepdim=keep) if axes else floats).to(x.dtype)


_enter("ReduceSum", _sum)
_enter("ReduceMean", _mean)
_enter("ReduceProd", _product)
_enter("ReduceMax", _largest)
_enter("ReduceMin", _smallest)
_enter("ReduceL1", lambda x, axes, keep: _sum(x.abs(), axes, keep))
_enter("ReduceL2", _norm)
_enter("ReduceSumSquare", lambda x, axes, keep: _sum(x * x, axes, keep))
_enter("ReduceLogSum", lambda x, axes, keep: _sum(x, axes, keep).log().to(x.dtype))
_enter("ReduceLogSumExp", _log_sum_exp)


@op("Softmax")
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@op("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


@op("Hardmax")
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return F.one_hot(x.argmax(axis), x.shape[axis]).to(x.dtype).movedim(-1, axis)


def _enter_flattened(name: str, function: Callable[..., Tensor]) -> None:
    """Before opset 13 the axis, and all that follow, were taken as one."""

    def flattened(x: Tensor, *, axis: int = 1) -> Tensor:
        axis = axis + x.ndim if axis < 0 else axis
        return function(x.reshape(math.prod(x.shape[:axis]), -1), axis=-1).reshape(x.shape)

    op(name)(flattened)


_enter_flattened("Softmax:1", softmax)
_enter_flattened("LogSoftmax:1", log_softmax)
_enter_flattened("Hardmax:1", hardmax)


@op("CumSum", parameters=[1])
def cumulative_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulative(torch.cumsum, 0, x, int(number(axis)), exclusive, reverse)


@op("CumProd", parameters=[1])
def cumulative_product(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulative(torch.cumprod, 1, x, int(number(axis)), exclusive, reverse)


def _cumulative(
    accumulate: Callable[..., Tensor], neutral: int, x: Tensor, axis: int, exclusive: int, reverse: int
) -> Tensor:
    """exclusive: without the element itself."""
    if reverse:
        x = x.flip(axis)
    if exclusive:
        first = torch.full_like(x.narrow(axis, 0, min(1, x.shape[axis])), neutral)
        x = torch.cat([first, x.narrow(axis, 0, max(x.shape[axis] - 1, 0))], axis)
    total = accumulate(x, axis, dtype=x.dtype)
    return total.flip(axis) if reverse else total
