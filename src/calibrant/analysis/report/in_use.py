"""How much of a value, and of weights, is kept as the products that use them see it.

    u = W x        noise of rounded weights     sum over channels c of  E[x_c^2] |dW_c|^2
                   noise of a rounded value     sum over channels c of  E[dx_c^2] |W_c|^2
                   signal                       sum over channels c of  E[x_c^2] |W_c|^2

By themselves a value and weights look well while their largest numbers do. Where those are in a channel that is zero,
or whose weights are next to nothing, all else may be lost. Statistics tell the range of each channel; its power is
taken to go with its square. Channels count as uncorrelated, and the error of a value as the same in all of them, but
for those that are zero, which have none. So this is an estimate: it tells what is broken from what is not, no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.analysis.findings import decibels_of
from calibrant.core import fake_quantize
from calibrant.core.policy import SOLVED
from calibrant.graph import Graph
from calibrant.graph.graph import original
from calibrant.graph.streams import reads_by_weights
from calibrant.graph.weights import seen_by_outputs
from calibrant.passes.base import parameter_of
from calibrant.sketches import Extremes

F64 = NDArray[np.float64]


def weights_in_use(graph: Graph, node: ir.Node, extremes: Mapping[str, Extremes]) -> float | None:
    """SQNR in dB of what the node's rounded weights compute from exact inputs; inf where rounding changes nothing.

    extremes: of values by name, per channel. None for other operators than Conv, Gemm and MatMul, for weights in float,
    and where the ranges of the input's channels are not known or all 0.
    """
    config = graph.edges.get((node.name or "", 1))
    stored = parameter_of(node, 1)
    if config is None or config.state not in SOLVED or stored is None:
        return None
    exact, power = _energy(node, _float_weights(node)), _power_read(node, extremes)
    if exact is None or power is None or len(power) != len(exact):
        return None
    lost = _energy(node, _float_weights(node) - fake_quantize(stored, config))
    signal = float(exact @ power)
    return decibels_of(float(lost @ power), signal) if lost is not None and signal > 0 else None


def value_in_use(graph: Graph, name: str, sqnr: float, extremes: Mapping[str, Extremes]) -> float:
    """SQNR in dB of what is computed from a rounded value: the lowest of the Conv, Gemm and MatMul that read it.

    sqnr: the value's own. That it is where none of them reads it, or the ranges of its channels are not known.
    """
    power = power_of(extremes[name]) if name in extremes else None
    found = [sqnr]
    for node in _reading_by_weights(graph, name):
        energy = _energy(node, _float_weights(node))
        if power is not None and energy is not None and len(energy) == len(power):
            rounded = energy[power > 0].mean() * power.sum()
            kept = float(energy @ power / rounded) if rounded > 0 else 1.0
            found.append(sqnr + 10 * float(np.log10(max(kept, np.finfo(np.float64).tiny))))
    return min(found)


def power_of(extremes: Extremes) -> F64 | None:
    """Of each channel the square of the largest finite |x|; None where channels are not known, or all are 0."""
    squares = reach_of(extremes) ** 2
    return squares if len(squares) > 1 and squares.any() else None


def reach_of(extremes: Extremes) -> F64:
    """Of each channel the largest finite |x|, 0 where there is none."""
    ends = np.abs([extremes.lo, extremes.hi]).astype(np.float64)
    return np.asarray(np.where(np.isfinite(ends), ends, 0.0).max(axis=0))


def _power_read(node: ir.Node, extremes: Mapping[str, Extremes]) -> F64 | None:
    value = node.inputs[0]
    name = value.name if value is not None else None
    return power_of(extremes[name]) if name is not None and name in extremes else None


def _reading_by_weights(graph: Graph, name: str) -> Iterable[ir.Node]:
    return (use.node for use in graph.value(name).uses() if reads_by_weights(use.node, use.idx))


def _float_weights(node: ir.Node) -> NDArray[np.float32]:
    tensor = original(node.inputs[1]) if node.inputs[1] is not None else None
    return np.asarray(tensor.numpy() if tensor is not None else parameter_of(node, 1))


def _energy(node: ir.Node, weights: NDArray[np.float32]) -> F64 | None:
    """The sum of w^2 of each input channel; None where the node does not read its input by weights."""
    if not reads_by_weights(node, 0):
        return None
    array, inputs = seen_by_outputs(node, weights)
    return np.bincount(inputs.reshape(-1), (array**2).sum(axis=2).reshape(-1)).astype(np.float64)
