"""Images in another size.

Every axis is resampled for itself: each of its new elements is a weighted sum of a few old ones. Which ones, and how
they weigh, depends on sizes alone; it is found once for each and kept on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from calibrant.engines.torch.ops.registry import Tensor, Unsupported, op
from calibrant.engines.torch.tensors import numbers

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Resampling:
    """How the elements of one axis come about; the fields are the attributes of Resize."""

    size: int
    new_size: int
    scale: float
    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    antialias: bool
    exclude_outside: bool
    window: tuple[float, float]

    def places(self) -> Floats:
        """Where each new element lies between the old ones: in float32, as runtimes have it.

        A scale is a float32: of 3 and 1 / 3 float64 makes a little less than 9, which may be another element.
        """
        new, scale = np.arange(self.new_size, dtype=np.float32), np.float32(self.scale)
        last, new_last = self.size - 1, scale * self.size - 1  # the new size before it was made whole
        rule = self.coordinates
        if rule == "pytorch_half_pixel" and self.new_size == 1:
            return np.zeros(1)
        if rule in ("half_pixel", "pytorch_half_pixel"):
            return (new + 0.5) / scale - 0.5
        if rule == "half_pixel_symmetric":
            shift = self.size / 2 * (1 - self.new_size / (scale * self.size))
            return shift + (new + 0.5) / scale - 0.5
        if rule == "align_corners":
            return new * (last / new_last) if new_last else np.zeros(1)
        if rule == "asymmetric":
            return new / scale
        if rule == "tf_half_pixel_for_nn":
            return (new + 0.5) / scale
        if rule == "tf_crop_and_resize":
            start, end = self.window
            if not new_last:
                return np.array([0.5 * (start + end) * last])
            return start * last + new * ((end - start) * last / new_last)
        raise Unsupported(f"coordinate_transformation_mode {rule}")

    def taps(self) -> tuple[NDArray[np.int64], Floats]:
        """[taps, new_size]: the old elements, and their weights, whose sums are 1."""
        places = self.places()
        if self.mode == "nearest":
            index = _ROUND[self.nearest](places)
            return np.clip(index, 0, self.size - 1).astype(np.int64)[None], np.ones((1, self.new_size))
        left = np.ceil(places) - 1
        stretch = min(self.scale, 1.0) if self.antialias else 1.0
        first = math.floor(-(2 if self.mode == "cubic" else 1) / stretch) + 1
        offsets = np.arange(first, 2 - first, dtype=np.float64)[:, None]
        distance = np.abs(offsets - (places - left)) * stretch
        weights = _keys(distance, self.cubic_a) if self.mode == "cubic" else np.maximum(1 - distance, 0)
        index = left + offsets
        if self.exclude_outside:
            weights = np.where((index < 0) | (index >= self.size), 0, weights)
        return np.clip(index, 0, self.size - 1).astype(np.int64), weights / weights.sum(0)

    def outside(self) -> NDArray[np.bool_]:
        """Which new elements lie beyond the old ones."""
        places = self.places()
        return (places < 0) | (places > self.size - 1)


_ROUND: dict[str, Callable[[Floats], Floats]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _keys(distance: Floats, a: float) -> Floats:
    """The cubic convolution kernel (Keys 1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


@lru_cache(maxsize=512)
def _on_device(how: Resampling, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    index, weights = how.taps()
    return (
        torch.from_numpy(index).to(device),
        torch.from_numpy(weights).to(device, dtype),
        torch.from_numpy(how.outside()).to(device),
    )


def resample(x: Tensor, axis: int, how: Resampling) -> Tensor:
    """The tensor with another size on that axis."""
    index, weights, _ = _on_device(how, x.device, x.dtype if x.is_floating_point() else torch.float32)
    if how.mode == "nearest":
        return x.index_select(axis, index[0])
    if not x.is_floating_point():
        raise Unsupported(f"{how.mode} resizing of integers")
    shape = [-1 if place == axis else 1 for place in range(x.ndim)]
    out = x.index_select(axis, index[0]) * weights[0].reshape(shape)
    for places, weight in zip(index[1:], weights[1:], strict=True):
        out = out + x.index_select(axis, places) * weight.reshape(shape)
    return out


@op("Resize", parameters=[1, 2, 3])
def resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    which = [axis % x.ndim for axis in (range(x.ndim) if axes is None else axes)]
    old = [x.shape[axis] for axis in which]
    factors, new = _factors(old, numbers(scales), numbers(sizes), keep_aspect_ratio_policy)
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    window = numbers(roi) if crops else [0.0] * len(which) + [1.0] * len(which)
    spans = zip(window[: len(which)], window[len(which) :], strict=True)
    beyond: Tensor | None = None
    for axis, size, new_size, factor, span in zip(which, old, new, factors, spans, strict=True):
        if size == new_size and factor == 1 and not crops:
            continue
        how = Resampling(
            size,
            new_size,
            factor,
            mode,
            coordinate_transformation_mode,
            nearest_mode,
            cubic_coeff_a,
            bool(antialias),
            bool(exclude_outside),
            span,
        )
        x = resample(x, axis, how)
        if crops:
            out = _on_device(how, x.device, x.dtype)[2].reshape([-1 if a == axis else 1 for a in range(x.ndim)])
            beyond = out if beyond is None else beyond | out
    return x if beyond is None else x.masked_fill(beyond, extrapolation_value)


def _factors(
    old: Sequence[int], scales: Sequence[float], sizes: Sequence[int], policy: str
) -> tuple[list[float], list[int]]:
    """By how much each axis grows, and to what size. A scale is a float32, of which float32 makes 10 * 0.7 = 7."""
    if not sizes:
        return list(scales), [math.floor(np.float32(size) * np.float32(s)) for size, s in zip(old, scales, strict=True)]
    factors = [new / size for new, size in zip(sizes, old, strict=True)]
    if policy == "stretch":
        return factors, list(sizes)
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(old), [math.floor(factor * size + 0.5) for size in old]


@op("Upsample", parameters=[1])
def upsample(x: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    """Upsample, and Resize before opset 11."""
    return resize(x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


# --- sampling anywhere


@op("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    kind = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    if x.ndim not in (4, 5) or (x.ndim == 5 and kind == "bicubic"):
        raise Unsupported(f"mode {mode} on {x.ndim - 2} spatial axes")
    return F.grid_sample(x, grid, kind, padding_mode, bool(align_corners))


@op("AffineGrid", parameters=[1])
def affine_grid(theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    if align_corners and 1 in numbers(size)[2:]:
        raise Unsupported("one element between aligned corners")  # it lies at -1, and in torch at 0
    return F.affine_grid(theta, numbers(size), bool(align_corners))
