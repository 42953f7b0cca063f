"""Windows, and transforms between time and frequency."""

from __future__ import annotations

import math
from functools import reduce

import torch

from calibrant.engines.torch.ops.registry import Call, Tensor, Unsupported, op
from calibrant.engines.torch.tensors import number


def _window(size: Tensor, periodic: int, output_datatype: int, call: Call, *terms: float) -> Tensor:
    """Of terms a, b, c: a - b cos(x) + c cos(2 x), once round over the window."""
    count = int(number(size))
    length = count if periodic else max(count - 1, 1)
    angle = torch.arange(count, dtype=torch.float64, device=call.device) * (2 * math.pi / length)
    signed = [(-1) ** k * term * torch.cos(k * angle) for k, term in enumerate(terms)]
    return reduce(torch.add, signed).to(call.dtype(output_datatype))


@op("HannWindow", parameters=[0])
def hann_window(size: Tensor, *, output_datatype: int = 1, periodic: int = 1, call: Call) -> Tensor:
    return _window(size, periodic, output_datatype, call, 0.5, 0.5)


@op("HammingWindow", parameters=[0])
def hamming_window(size: Tensor, *, output_datatype: int = 1, periodic: int = 1, call: Call) -> Tensor:
    return _window(size, periodic, output_datatype, call, 25 / 46, 21 / 46)


@op("BlackmanWindow", parameters=[0])
def blackman_window(size: Tensor, *, output_datatype: int = 1, periodic: int = 1, call: Call) -> Tensor:
    return _window(size, periodic, output_datatype, call, 0.42, 0.5, 0.08)


@op("DFT", parameters=[1, 2])
def dft(
    x: Tensor, length: Tensor | None = None, axis: Tensor | None = None, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """x: [..., 1] of reals, or [..., 2] of real and imaginary parts, which is what it returns."""
    along = (-2 if axis is None else int(number(axis))) % x.ndim
    points = None if length is None else int(number(length))
    if inverse and onesided:
        raise Unsupported("the inverse of half a spectrum")
    if onesided:
        return torch.view_as_real(torch.fft.rfft(x[..., 0], points, along))
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(transform(signal, points, along).resolve_conj())
