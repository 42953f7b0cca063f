"""BalancedRoundingPass: weights are rounded so that their errors cancel where they are added up."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import QuantizationStates, RoundingPolicy, quantize
from calibrant.engines.session import usable_processors
from calibrant.passes.base import QuantizationPass
from calibrant.passes.linear import Linear, linear_layers
from calibrant.sketches.kernels.jit import compiled

if TYPE_CHECKING:
    from calibrant.graph import Graph

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]


class BalancedRoundingPass(QuantizationPass):
    """Change how some weights are rounded, so that rounding errors add up to nearly nothing.

    With e the errors of a row of the weight (all that makes one output), in steps, least is wanted of

        sum e^2 + sum over kernels (sum of e in the kernel)^2 + (sum of all e)^2

    which is the mean squared error of the output for inputs whose neighbours are alike and whose mean is not zero, as
    images and what comes out of a Relu are. Plain rounding minds the first term alone. From there, always the one step
    up or down is made that gains most, until none gains. No error becomes as large as a step.

    The objective is that of SQuant (Guo et al., 2022, arXiv 2202.07471: CASE), which meets it by flipping first in each
    kernel, then over kernels. It depends on the weight and its scale alone: no samples are needed.

    For the weights of Conv, Gemm and MatMul that one node reads (see `linear_layers`), in state BAKED and rounded to
    the nearest. The integers are kept as the constant itself, which then lies on its grid.
    """

    name = "BalancedRoundingPass"

    def optimize(
        self, graph: Graph, dataloader: Any = None, executor: Any = None, threads: int | None = None, **_: Any
    ) -> None:
        layers = [
            layer
            for layer in linear_layers(graph)
            if layer.config.state is QuantizationStates.BAKED and layer.config.rounding not in ONE_WAY
        ]
        with ThreadPoolExecutor(threads or usable_processors(), thread_name_prefix="calibrant-rounding") as pool:
            found = list(pool.map(partial(balance, graph), layers))
        for layer, (weight, moves) in zip(layers, found, strict=True):
            if moves:
                graph.change_constant(layer.weight_name, weight)
        total = sum(int(np.prod(layer.shape)) for layer in layers)
        log.info("%s: %d of %d weights", self.name, sum(moves for _, moves in found), total)


ONE_WAY = (RoundingPolicy.ROUND_UP,)


def balance(graph: Graph, layer: Linear) -> tuple[NDArray[Any], int]:
    """The layer's weight, rounded so, and how many of its values are not the nearest ones."""
    config, value = layer.config, graph.value(layer.weight_name)
    floats = np.asarray(value.const_value.numpy())  # type: ignore[union-attr]
    rows = layer.rows(floats).astype(np.float64)
    integers = layer.rows(quantize(floats, config)).astype(np.float64)
    shape = rows.shape[:2] if config.is_per_channel else (1, 1)
    scale = np.broadcast_to(np.asarray(config.scale, np.float64).reshape(shape), rows.shape[:2])
    errors = rows / scale[..., None] - integers
    moves = balanced(
        errors.reshape(-1, rows.shape[-1]),
        integers.reshape(-1, rows.shape[-1]),
        layer.kernel,
        float(config.quant_min),
        float(config.quant_max),
    )
    return layer.weight(integers * scale[..., None]), int(moves)


@compiled
def balanced(errors: F64, integers: F64, kernel: int, low: float, high: float) -> int:
    """Move `integers` (rows, K), and with them `errors`, in place; each `kernel` values in a row are a kernel.

    Returns the number of moves. Of moves that gain the same the first is made: the result is the same everywhere.
    """
    kernels = errors.shape[1] // kernel
    weight = 1.0 if kernel > 1 else 0.0  # one value is no sum
    sums = np.empty(kernels)
    places = np.empty((2, kernels), np.int64)  # the value of each kernel that gains most when it goes down, and up
    gains = np.empty((2, kernels))
    moves = 0
    for row in range(errors.shape[0]):
        e, q = errors[row], integers[row]
        for k in range(kernels):
            sums[k] = e[k * kernel : (k + 1) * kernel].sum()
            _look(e, q, k, kernel, weight, sums[k], low, high, places, gains)
        whole = sums.sum()
        while True:
            best, up, gained = -1, 0, 1e-9
            for way in range(2):
                common = 2 * whole * (2 * way - 1) - 1
                for k in range(kernels):
                    if gains[way, k] + common > gained:
                        best, up, gained = k, way, gains[way, k] + common
            if best < 0:
                break
            step = 2.0 * up - 1.0
            q[places[up, best]] += step
            e[places[up, best]] -= step
            sums[best] -= step
            whole -= step
            moves += 1
            _look(e, q, best, kernel, weight, sums[best], low, high, places, gains)
    return moves


@compiled
def _look(
    e: F64,
    q: F64,
    k: int,
    kernel: int,
    weight: float,
    total: float,
    low: float,
    high: float,
    places: NDArray[np.int64],
    gains: F64,
) -> None:
    """Find which value of kernel k to move down, and which up, and what that gains but for the sum of the whole row."""
    for way in range(2):
        step = 2.0 * way - 1.0
        gains[way, k], places[way, k] = -np.inf, 0
        for j in range(k * kernel, (k + 1) * kernel):
            # Only towards the real value, which keeps the error below one step.
            if e[j] * step > 0 and low <= q[j] + step <= high:
                gain = 2 * e[j] * step - 1 + weight * (2 * total * step - 1)
                if gain > gains[way, k]:
                    gains[way, k], places[way, k] = gain, j
