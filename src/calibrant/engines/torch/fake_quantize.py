"""Quantize and dequantize with gradients: what an integer runtime computes with, in a form that can be trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from calibrant.core import RoundingPolicy, TensorQuantizationConfig
from calibrant.core.policy import SOLVED
from calibrant.graph import Graph
from calibrant.graph.roles import is_bound


def _half_away(x: Tensor) -> Tensor:
    return torch.copysign(torch.floor(x.abs() + 0.5), x)


_ROUND: dict[RoundingPolicy, Callable[[Tensor], Tensor]] = {
    RoundingPolicy.ROUND_HALF_EVEN: torch.round,
    RoundingPolicy.ROUND_HALF_UP: lambda x: torch.floor(x + 0.5),
    RoundingPolicy.ROUND_HALF_DOWN: lambda x: torch.ceil(x - 0.5),
    RoundingPolicy.ROUND_HALF_TOWARDS_ZERO: lambda x: torch.copysign(torch.ceil(x.abs() - 0.5), x),
    RoundingPolicy.ROUND_HALF_FAR_FORM_ZERO: _half_away,
    RoundingPolicy.ROUND_TO_NEAR_INT: _half_away,
    RoundingPolicy.ROUND_UP: torch.ceil,
}


def round_tensor(x: Tensor, policy: RoundingPolicy = RoundingPolicy.ROUND_HALF_EVEN) -> Tensor:
    """Round every value to an integer, as `calibrant.core.rounding.round_array` does; the dtype stays.

    Halves to even in the tensor's own type; by any other rule in float64, in which x + 0.5 never rounds up by itself.
    """
    rule = _ROUND[policy]
    return rule(x) if rule is torch.round else rule(x.to(torch.float64)).to(x.dtype)


class _OnGrid(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
    """The straight-through estimator (Bengio et al. 2013); the scale has the gradient of LSQ (Esser et al. 2020)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, low: int, high: int, rounding: RoundingPolicy
    ) -> Tensor:
        ratio = x / scale
        integers = round_tensor(ratio, rounding) + offset
        inside = (integers >= low) & (integers <= high)
        integers = integers.clamp(low, high) - offset
        ctx.save_for_backward(inside, integers, ratio)
        ctx.scale_shape = scale.shape
        return integers * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inside, integers, ratio = ctx.saved_tensors
        of_x = torch.where(inside, gradient, torch.zeros_like(gradient)) if ctx.needs_input_grad[0] else None
        of_scale = None
        if ctx.needs_input_grad[1]:
            each = gradient * torch.where(inside, integers - ratio, integers)
            of_scale = each.sum_to_size(ctx.scale_shape)
        return of_x, of_scale, None, None, None, None


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    quant_min: int,
    quant_max: int,
    rounding: RoundingPolicy = RoundingPolicy.ROUND_HALF_EVEN,
) -> Tensor:
    """`x` through quantize and dequantize, as `calibrant.core.fake_quantize` does it.

    x: floating, any shape. scale, offset: shaped to broadcast against it. float16 and bfloat16 are computed in float32.
    NaN stays NaN. Gradients: of x, that of the result where it falls on the grid (quant_min and quant_max included)
    and zero where it saturates; of scale, round(x / scale) - x / scale on the grid and the grid's end beyond.
    """
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    found = _OnGrid.apply(x.to(wide), scale.to(wide), offset.to(wide), quant_min, quant_max, rounding)
    return found.to(x.dtype)


def on_grid(x: Tensor, config: TensorQuantizationConfig, scale: Tensor, offset: Tensor) -> Tensor:
    """`x` as a runtime reads it by that config; scale and offset are the config's own, as tensors.

    The integers of a bias (32 bits) may have more digits than a float32 quotient: those are found in float64.
    """
    shape = config.parameter_shape(x.ndim)
    scale, offset = scale.reshape(shape), offset.reshape(shape)
    if not config.is_bias:
        return fake_quantize(x, scale, offset, config.quant_min, config.quant_max, config.rounding)
    exact = fake_quantize(
        x.to(torch.float64), scale.to(torch.float64), offset, config.quant_min, config.quant_max, config.rounding
    )
    return exact.to(x.dtype)


class ConfiguredGrids:
    """What the readers of a graph read on a grid: by its configs that are solved; those that are not do nothing.

    1. A value with a config is read on its grid, by nodes and at the graph's outputs; an input stays an input.
    2. A reader with a config of its own reads the float value on that grid, or as it is (FP32).
    3. A constant is read on the grid of its reader's config; those of Clip and Pad stay as they are.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def of(self, value: Any) -> TensorQuantizationConfig | None:
        """The config of the value itself."""
        return _solved(self._graph.config_of(value.name or ""))

    def at_output(self, value: Any) -> TensorQuantizationConfig | None:
        """The config with which it leaves the graph."""
        return None if value.is_graph_input() else self.of(value)

    def read_by(self, node: Any, index: int) -> TensorQuantizationConfig | None:
        """The config by which that node reads its input."""
        if node.inputs[index].is_initializer() and is_bound(node, index):
            return None
        return _solved(self._graph.config_read(node, index))


def _solved(config: TensorQuantizationConfig | None) -> TensorQuantizationConfig | None:
    ready = config is not None and config.state in SOLVED and config.scale is not None and config.offset is not None
    return config if ready else None
