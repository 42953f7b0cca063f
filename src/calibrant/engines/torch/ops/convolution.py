"""Convolutions over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from calibrant.engines.torch.ops.padding import Pads, amounts, resolve
from calibrant.engines.torch.ops.registry import Tensor, Unsupported, op

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@op("Conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    kernel = weight.shape[2:]
    rank = len(kernel)
    if rank not in _CONV:
        raise Unsupported(f"{rank} spatial axes")
    steps, spread = tuple(strides or [1] * rank), tuple(dilations or [1] * rank)
    both = resolve(auto_pad, pads, x.shape[2:], kernel, steps, spread)
    if both.even:
        return _CONV[rank](x, weight, bias, steps, tuple(both.before), spread, group)
    return _CONV[rank](F.pad(x, amounts(both)), weight, bias, steps, 0, spread, group)


@op("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """All of what every input reaches; then pads take away from it, and output_padding adds to it."""
    kernel = weight.shape[2:]
    rank = len(kernel)
    if rank not in _CONV_TRANSPOSE:
        raise Unsupported(f"{rank} spatial axes")
    steps, spread = tuple(strides or [1] * rank), tuple(dilations or [1] * rank)
    extra = list(output_padding or [0] * rank)
    reached = [s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in zip(x.shape[2:], kernel, steps, spread, strict=True)]
    if output_shape is not None:
        surplus = [r + e - n for r, e, n in zip(reached, extra, output_shape[-rank:], strict=True)]
        both = Pads.halved(surplus, more_at_end=auto_pad == "SAME_UPPER")
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        surplus = [r + e - n * s for r, e, n, s in zip(reached, extra, x.shape[2:], steps, strict=True)]
        both = Pads.halved(surplus, more_at_end=auto_pad == "SAME_UPPER")
    else:
        both = resolve("NOTSET" if auto_pad == "VALID" else auto_pad, pads, x.shape[2:], kernel, steps, spread)
    fits = all(e < max(s, d) for e, s, d in zip(extra, steps, spread, strict=True))
    if both.even and fits and min(both.before) >= 0:
        return _CONV_TRANSPOSE[rank](x, weight, bias, steps, tuple(both.before), tuple(extra), group, spread)
    full = _CONV_TRANSPOSE[rank](x, weight, None, steps, 0, 0, group, spread)
    cut = Pads([-b for b in both.before], [e - a for e, a in zip(extra, both.after, strict=True)])
    full = F.pad(full, amounts(cut))
    return full if bias is None else full + bias.reshape(-1, *[1] * rank)


@op("CausalConvWithState")
def causal_conv_with_state(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None, *, activation: str = "none"
) -> tuple[Tensor, Tensor]:
    """Each channel for itself, over itself and what came before; the last of that is handed on."""
    before = weight.shape[-1] - 1
    past = x.new_zeros(*x.shape[:2], before) if past is None else past
    whole = torch.cat([past, x], -1)
    out = F.conv1d(whole, weight, bias, groups=x.shape[1])
    if activation not in ("none", "silu", "swish"):
        raise Unsupported(f"activation {activation}")
    return out if activation == "none" else F.silu(out), whole[..., whole.shape[-1] - before :]


@op("ConvInteger")
def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """In float64, which holds the sums exactly."""
    centred = x.to(torch.float64) - (0 if x_zero_point is None else x_zero_point)
    taps = weight.to(torch.float64)
    if w_zero_point is not None:
        taps = taps - w_zero_point.reshape(-1, *[1] * (weight.ndim - 1))
    found = conv(centred, taps, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    return found.to(torch.int32)
