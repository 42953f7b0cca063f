"""Normalizations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from calibrant.engines.torch.ops.registry import Call, Tensor, Unsupported, op
from calibrant.engines.torch.tensors import widened


@op("BatchNormalization")
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    call: Call,
) -> Tensor:
    if training_mode or call.outputs > 1:
        raise Unsupported("training")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


@op("InstanceNormalization")
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@op("LayerNormalization")
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    call: Call,
) -> Tensor | tuple[Tensor, ...]:
    axes = tuple(range(axis % x.ndim, x.ndim))
    shape = x.shape[axes[0] :]
    if call.outputs == 1 and scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    wide = widened(x)
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)
    out = (centred * inverse).to(x.dtype) * scale
    out = out if bias is None else out + bias
    return out if call.outputs == 1 else (out, mean, inverse)[: call.outputs]


@op("GroupNormalization")
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@op("GroupNormalization:18")
def scaled_by_group(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Before opset 21 scale and bias were those of a group."""
    each = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


@op("RMSNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = widened(x)
    return (wide * torch.rsqrt((wide * wide).mean(axes, keepdim=True) + epsilon)).to(x.dtype) * scale


@op("MeanVarianceNormalization")
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    wide = widened(x)
    centred = wide - wide.mean(tuple(axes), keepdim=True)
    return (centred / ((centred * centred).mean(tuple(axes), keepdim=True).sqrt() + 1e-9)).to(x.dtype)


@op("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Zero stays zero."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@op("LRN")
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Over channels c - floor((size - 1) / 2) to c + ceil((size - 1) / 2)."""
    wide = widened(x)
    flat = (wide * wide).reshape(x.shape[0], 1, x.shape[1], -1)
    padded = F.pad(flat, (0, 0, (size - 1) // 2, math.ceil((size - 1) / 2)))
    mean = F.avg_pool2d(padded, (size, 1), stride=1).reshape(x.shape)
    return (wide / (bias + alpha * mean) ** beta).to(x.dtype)
