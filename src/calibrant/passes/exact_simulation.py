"""ExactSimulationPass: scales under which rounding never meets a tie, so that every runtime gets the same integers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.core import TensorQuantizationConfig
from calibrant.core.policy import SOLVED
from calibrant.passes.activations import unsettle_dependents
from calibrant.passes.base import QuantizationPass, parameter_of, require_state, written_config
from calibrant.sketches.kernels.jit import compiled

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.graph import Graph

log = logging.getLogger(__name__)

Config = TensorQuantizationConfig
F64 = NDArray[np.float64]

WEIGHT_TOLERANCE = 1 / 1024  # so little that hardly a weight becomes another integer
ACTIVATION_TOLERANCE = 1 / 4096  # less still: an activation's scale is what its calibration method found
WIDEST = 8  # float32 holds a sum of wider products less exactly than the distance to a tie
_MULTIPLYING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_ADDING = {"Add", "Sub", "Sum", "AveragePool", "GlobalAveragePool"}


class ExactSimulationPass(QuantizationPass):
    """Move scales a little, so that a simulation in float and integer kernels give the same integers.

    An integer operator rounds M S, where S is a whole number, its sum of products, and M = input scale x weight scale
    / output scale. A simulation rounds the same number with float32's error in it. Where M S is a tie, or nearer to one
    than that error, the two may differ by a step, which a deep network amplifies until they differ as much as either
    does from the float model. With M = k / d and d odd there is no tie: k S / d = n + 1/2 would mean that 2 k S, which
    is even, equals (2 n + 1) d, which is odd; and M S stays at least 1 / (2 d) away from each. What a runtime does
    with ties, and in which order it adds, then makes no difference.

    - Conv, ConvTranspose, Gemm, MatMul with a weight: the scale of the weight, of each channel, is moved to such a
      fraction, by 0.1 % at most. Not where the output is float, nor where several operators read the weight.
    - Add, Sub, Sum and average pools: the scales of their inputs and outputs become odd multiples of a common unit,
      by 0.025 % at most. (A pool over an even number of values keeps its ties.)

    Other operators (Mul, Sigmoid, a MatMul of two activations) keep their scales, as do activations of more than 8
    bits, of a scale per channel, and powers of two. Runs after ParameterQuantizePass; else StateError.
    """

    name = "ExactSimulationPass"

    def optimize(self, graph: Graph, dataloader: Any = None, executor: Any = None, **_: Any) -> None:
        groups = joined([self._added(graph, node) for node in graph.model.graph])
        products = [product for node in graph.model.graph for product in self._products(graph, node)]
        for group in groups:
            scales = odd_multiples([float(config.scale) for config in group])  # type: ignore[arg-type]
            for config, scale in zip(group, scales, strict=True):
                config.scale = scale
        for product in products:
            product.move()
        moved = {id(config) for group in groups for config in group} | {id(p.weight) for p in products}
        unsettle_dependents(graph, moved)
        log.info("%s: %d weights, %d activations", self.name, len(products), sum(map(len, groups)))

    def _added(self, graph: Graph, node: ir.Node) -> list[Config]:
        """The configs of the inputs and the output of an adding node; none where one of them is not to be moved."""
        if node.op_type not in _ADDING:
            return []
        configs = [graph.config_read(node, index) for index in range(len(node.inputs))]
        configs.append(written_config(graph, node))
        return self._solved(node, configs) if all(map(_is_movable, configs)) else []

    def _products(self, graph: Graph, node: ir.Node) -> Iterator[Product]:
        """The product that this node makes, if its weight's scale is to be moved."""
        if node.op_type not in _MULTIPLYING or parameter_of(node, 1) is None:
            return
        configs = [graph.config_read(node, 0), graph.config_read(node, 1), written_config(graph, node)]
        weight = configs[1]
        alone = sum(config is weight for config in graph.edges.values()) == 1
        if alone and _is_movable(configs[0]) and _is_movable(weight, per_channel=True) and _is_movable(configs[2]):
            data, weight, made = self._solved(node, configs)
            alpha = node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0
            yield Product(data, weight, made, alpha)

    def _solved(self, node: ir.Node, configs: Sequence[Config | None]) -> list[Config]:
        first = "RuntimeCalibrationPass and ParameterQuantizePass"
        return [require_state(c, SOLVED, f"what '{node.name}' reads or makes", self.name, first) for c in configs]


@dataclass
class Product:
    """A sum of products on integers: the configs of its data, its weight and what it makes, and a Gemm's alpha."""

    data: Config
    weight: Config
    made: Config
    alpha: float

    def move(self) -> None:
        """Move the weight's scale to one without ties."""
        unit = self.alpha * np.asarray(self.data.scale, np.float64) / np.asarray(self.made.scale, np.float64)
        if 0 < unit < np.inf:
            self.weight.scale = odd_fraction(np.asarray(self.weight.scale, np.float64) * unit) / unit


def odd_fraction(ratio: ArrayLike) -> F64:
    """Near each ratio (> 0) a fraction with an odd denominator, the smallest there is within `WEIGHT_TOLERANCE`.

    >>> float(odd_fraction(0.3334)) * 3
    1.0
    """
    flat = np.asarray(ratio, np.float64).reshape(-1)
    found = _near_fraction(flat, WEIGHT_TOLERANCE)
    return np.asarray(np.where(found > 0, found, 1 / _odd(1 / flat)).reshape(np.shape(ratio)))


@compiled
def _near_fraction(ratios: F64, tolerance: float) -> F64:
    """Of each ratio the fraction with the smallest odd denominator below 2 / tolerance that is so near; 0: none is."""
    found = np.zeros_like(ratios)
    for i, ratio in enumerate(ratios):
        for denominator in range(1, int(2 / tolerance), 2):
            fraction = max(np.rint(ratio * denominator), 1.0) / denominator
            if abs(fraction - ratio) <= tolerance * ratio:
                found[i] = fraction
                break
    return found


def odd_multiples(scales: Sequence[float]) -> F64:
    """Near each scale an odd multiple of a common unit, the largest for which all are within `ACTIVATION_TOLERANCE`."""
    wanted = np.asarray(scales, np.float64)
    for parts in range(1, int(1 / ACTIVATION_TOLERANCE) + 2, 2):
        unit = wanted.min() / parts
        found = _odd(wanted / unit) * unit
        if (np.abs(found - wanted) <= ACTIVATION_TOLERANCE * wanted).all():
            break
    return np.asarray(found)


def joined(sets: Sequence[Sequence[Config]]) -> list[list[Config]]:
    """The sets, those with a config in common made one."""
    groups: list[dict[int, Config]] = []
    for configs in sets:
        group = {id(config): config for config in configs}
        apart = [other for other in groups if not other.keys() & group.keys()]
        touched = [other for other in groups if other.keys() & group.keys()]
        groups = [*apart, {key: config for other in (*touched, group) for key, config in other.items()}]
    return [list(group.values()) for group in groups if group]


def _odd(numbers: F64) -> F64:
    """The nearest odd numbers."""
    return np.asarray(2 * np.rint((numbers - 1) / 2) + 1)


def _is_movable(config: Config | None, per_channel: bool = False) -> bool:
    if config is None or config.is_power_of_2 or config.num_of_bits > WIDEST:
        return False
    return per_channel or not config.is_per_channel
