"""BiasCorrectionPass: biases take up what quantization shifts, channel by channel."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import SettingError
from calibrant.engines.stepping import Stepping
from calibrant.graph.axes import CONVOLUTIONS
from calibrant.graph.clipping import Ends, activation_ends
from calibrant.graph.weights import BIAS, output_channels
from calibrant.passes.ahead import Ahead, affordable, check_size, less
from calibrant.passes.base import parameter_of
from calibrant.passes.blocks import ends_of, in_blocks
from calibrant.passes.linear import is_read_once
from calibrant.passes.optimization import OptimizationPass
from calibrant.quantizers.choice import nodes_of
from calibrant.settings import BiasCorrectSetting

if TYPE_CHECKING:
    from calibrant.engines import Executor
    from calibrant.engines.samples import Feed
    from calibrant.graph import Graph

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
Array = NDArray[Any]
TRIM = 3.0  # root mean squares: errors beyond are left out of a trimmed mean


class BiasCorrectionPass(OptimizationPass):
    """Give each channel of each layer the bias under which its quantized output errs least (Nagel et al., 2019).

    interested_layers: node names, op types or regular expressions; empty: all. steps: how many samples are looked at.
    block_size: of how many of these layers a block is made, at whose end a correction is judged; None: it is judged at
    the model's outputs, which costs a run of all that is behind the layer.

    Layer after layer, in the order in which they run, so that each sees what was corrected before it. Of a layer with
    output y, which is y' when all before it and its weights are quantized, and with the activation f behind it (a Relu
    or Clip; else f is the identity), channel c gets

        b[c] += sum of (f(y) - f(y')) / number,   over the positions of c where y' is inside of what f lets through

    which is a Gauss-Newton step towards the least sum of (f(y) - f(y' + b))^2; without f it is the mean of the error.
    It shrinks by d^2 / (d^2 + its variance between samples). The alternative is the same mean without the errors
    beyond three times their root mean square: where a range clips a few large values, these make up most of the mean.
    - It is found on one half of the samples. The one of less error where it is judged, all between in float, is taken
      if it errs less than none on that half, and on the other half as well.
    - Layers are Conv, ConvTranspose and Gemm, and MatMul with an Add of a constant behind it, with a bias of their own.

    Runs after calibration and the passes that change weights. Raises SettingError for a pattern that means no such
    layer, and for a block_size below 1.
    """

    name: ClassVar[str] = "BiasCorrectionPass"

    def __init__(
        self,
        interested_layers: Sequence[str] = (),
        steps: int = BiasCorrectSetting.steps,
        block_size: int | None = None,
    ) -> None:
        if block_size is not None and block_size < 1:
            raise SettingError(f"bias_correct_setting.block_size must be at least 1, or None; got {block_size}")
        self.interested_layers = list(interested_layers)
        self.steps, self.block_size = steps, block_size

    def held_out(self, samples: Sequence[Feed]) -> Sequence[Feed]:
        return samples[self.steps :] or samples[1::2] or samples

    def layers(self, graph: Graph, samples: Sequence[Feed], executor: Executor) -> Iterator[tuple[int, int]]:
        check_size(graph, self.name)
        feeds = affordable(graph, samples[: self.steps])
        found = {layer.node: layer for layer in biased_layers(graph, self.interested_layers)}
        at_outputs = Ahead.at_outputs(graph, feeds, executor) if self.block_size is None else None
        threads = executor.threads
        done = corrected = 0
        try:
            with Stepping(graph, feeds, False, threads) as exact, Stepping(graph, feeds, True, threads) as quantized:
                for nodes in self._blocks(graph):
                    wanted = {}
                    for node in nodes:
                        if node in found:
                            wanted[node] = exact.look_ahead(node)
                        exact.step(node)
                    ahead = at_outputs or Ahead(graph, exact.known(ends_of(nodes)))
                    for node in nodes:
                        if node in found:
                            corrected += self._correct(graph, found[node], wanted.pop(node), quantized, ahead)
                        quantized.step(node)
                        if node in found:
                            done += 1
                            yield done, len(found)
        finally:
            graph.note(f"bias correction: {corrected} of {len(found)} layers corrected, the others were better without")

    def _blocks(self, graph: Graph) -> list[list[ir.Node]]:
        """All nodes, in order; each by itself where it does not matter, the end being that of the model."""
        if self.block_size is None:
            return [[node] for node in graph.model.graph]
        return in_blocks(graph, self.block_size, {layer.node for layer in biased_layers(graph)})

    def _correct(self, graph: Graph, layer: Layer, wanted: list[Array], quantized: Stepping, ahead: Ahead) -> bool:
        """Correct the layer's bias where that is better on both halves of the samples; whether it was."""
        made = quantized.look_ahead(layer.node)
        numbers = range(len(made))
        halves = [list(numbers[half::2]) or [0] for half in (0, 1)]
        fit = Fit([wanted[i] for i in halves[0]], [made[i] for i in halves[0]], layer.axis, layer.ends)
        remainder = ahead.from_here(layer.node, layer.output)
        shape = fit.shape

        def errors(shift: F64, numbers: Sequence[int]) -> F64:
            moved = shift.reshape(shape).astype(np.float32)
            return ahead.errors(remainder, quantized, layer.output, lambda i, _: made[i] + moved, numbers)

        least, found = errors(np.zeros(fit.channels), halves[0]), None
        for shift in (fit.mean(), fit.trimmed_mean()):
            if shift.any() and less(after := errors(shift, halves[0]), least):
                least, found = after, shift
        if found is None:
            return False
        before = errors(np.zeros(fit.channels), halves[1])
        if not less(errors(found, halves[1]), before):
            return False
        layer.add(graph, found)
        return True


@dataclass(frozen=True)
class Layer:
    """A node that adds a bias, which input that is, the axis of its output's channels, and what its activation passes.

    beta: what the node multiplies the bias by.
    """

    node: ir.Node
    index: int
    axis: int
    ends: Ends
    beta: float = 1.0

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    def add(self, graph: Graph, shift: F64) -> None:
        """Add to the bias; float64 (channels,)."""
        bias = self.node.inputs[self.index]
        values = parameter_of(self.node, self.index)
        if bias is not None and values is not None:
            corrected = values + (shift / self.beta).reshape(values.shape)
            graph.change_constant(bias.name or "", corrected.astype(np.float32))


def biased_layers(graph: Graph, interested: Sequence[str] = ()) -> list[Layer]:
    """The layers of the graph that are quantized, and whose bias can be corrected, in the order in which they run."""
    layers = [layer for node in graph.model.graph if (layer := _layer(graph, node)) is not None]
    if not interested:
        return layers
    wanted: set[str] = set()
    for pattern in interested:
        found = set(nodes_of(graph, "interested_layers", pattern))
        if not found & {name for layer in layers for name in _names(layer)}:
            raise SettingError(f"interested_layers: '{pattern}' means no quantized layer with a bias")
        wanted |= found
    return [layer for layer in layers if wanted & set(_names(layer))]


def _names(layer: Layer) -> list[str]:
    """The names that mean the layer: its node's, and that of the MatMul before an Add."""
    producers = [value.producer() for value in layer.node.inputs if value is not None]
    products = [node for node in producers if node is not None and layer.node.op_type == "Add"]
    return [node.name or "" for node in (layer.node, *products)]


def _layer(graph: Graph, node: ir.Node) -> Layer | None:
    index = BIAS.get(node.op_type)
    product: ir.Node | None = node
    if node.op_type == "Add":
        index = next((i for i in (0, 1) if parameter_of(node, i) is not None), None)
        data = node.inputs[1 - index] if index is not None else None
        product = data.producer() if data is not None else None
        if data is None or product is None or product.op_type != "MatMul" or not is_read_once(data):
            return None
    bias = parameter_of(node, index) if index is not None else None
    if index is None or product is None or bias is None or bias.dtype != np.float32:
        return None
    if not is_read_once(node.inputs[index]):  # type: ignore[arg-type]
        return None
    weight = parameter_of(product, 1)
    if weight is None or all(graph.config_read(product, i) is None for i in (0, 1)):
        return None
    channels, axis = output_channels(product, weight.shape), 1 if node.op_type in CONVOLUTIONS else -1
    if bias.size != channels or bias.shape[-1:] != (channels,):
        return None
    beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    return Layer(node, index, axis, activation_ends(node), beta) if beta else None


class Fit:
    """What to add to each channel of `found` so that it is near `exact`, behind an activation that keeps to `ends`.

    exact, found: float32, arrays of one rank, one of each sample.
    """

    def __init__(self, exact: Sequence[Array], found: Sequence[Array], axis: int, ends: Ends) -> None:
        self._axis = axis % found[0].ndim
        self.channels = found[0].shape[self._axis]
        self.shape = [self.channels if i == self._axis else 1 for i in range(found[0].ndim)]
        self._errors = []
        for one, other in zip(exact, found, strict=True):
            inside = (other > ends[0]) & (other < ends[1])
            self._errors.append(np.where(inside, np.clip(one, *ends) - other, np.float32(np.nan)))

    def mean(self) -> F64:
        """The mean of the errors that count; 0 for a channel without any."""
        return self._within(np.full(self.channels, np.inf))

    def trimmed_mean(self) -> F64:
        """The same, without those beyond TRIM root mean squares; the latter of what is left, three times over."""
        limit = np.full(self.channels, np.inf)
        for _ in range(3):
            squares, counts = self._sums(limit, lambda e: e**2)
            limit = TRIM * np.sqrt(squares.sum(axis=0) / np.maximum(counts.sum(axis=0), 1))
        return self._within(limit)

    def _within(self, limit: F64) -> F64:
        sums, counts = self._sums(limit, lambda e: e)
        total = np.maximum(counts.sum(axis=0), 1)
        mean = np.asarray(sums.sum(axis=0) / total)
        samples = len(sums)
        if samples == 1:
            return mean
        variance = ((sums - mean * counts) ** 2).sum(axis=0) / total**2 * samples / (samples - 1)
        return np.asarray(mean * mean**2 / np.maximum(mean**2 + variance, np.finfo(np.float64).tiny))

    def _sums(self, limit: F64, of: Any) -> tuple[F64, F64]:
        """Of each sample and channel: the sum of a function of the errors within the limit, and their number."""
        others = tuple(i for i in range(len(self.shape)) if i != self._axis)
        bound = limit.reshape(self.shape).astype(np.float32)
        sums, counts = [], []
        for error in self._errors:
            counting = np.abs(error) <= bound  # NaN does not
            sums.append(np.where(counting, of(error), 0).sum(axis=others, dtype=np.float64))
            counts.append(counting.sum(axis=others))
        return np.array(sums), np.array(counts, np.float64)
