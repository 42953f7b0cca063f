"""PassiveParameterQuantizePass: what follows from other scales, biases above all."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import ObservationError, QuantizationPolicy, QuantizationStates, TensorQuantizationConfig
from calibrant.core import QuantizationProperty as P
from calibrant.core.policy import SOLVED
from calibrant.graph.roles import is_bound
from calibrant.graph.weights import BIAS, product_ratio
from calibrant.passes.base import QuantizationPass, nodes_by_name, parameter_of, require_state

if TYPE_CHECKING:
    from calibrant.graph import Graph

log = logging.getLogger(__name__)

Config = TensorQuantizationConfig
States = QuantizationStates

BIAS_LIMIT = 2**30  # half of int32: the other half is for the sum of products that is added to the bias


class PassiveParameterQuantizePass(QuantizationPass):
    """Give every config in state PASSIVE_INIT the scale that follows from its node's others; its state is PASSIVE then.

    Bias (Conv, ConvTranspose, Gemm): int32, scale = input scale x weight scale (x alpha / beta of a Gemm), offset 0.
        Where |bias| / scale passes half of int32, the weight scale of that channel is raised just enough (with
        power-of-two scales: to the next power), which graph.report says; nothing is ever wrapped around. Weights
        become integers at export, so they follow. A bias whose input or weight is read in float, or whose channels
        are not the weight's, stays in float, which graph.report says as well.
    Constants of Clip and Pad: scale and offset of the value they work on.

    Either all is done or nothing. Raises StateError, naming the pass to run first, when an input is not ACTIVATED or
    a weight not BAKED; ObservationError for a bias with NaN or Inf.
    """

    name = "PassiveParameterQuantizePass"

    def optimize(self, graph: Graph, dataloader: Any = None, executor: Any = None, **_: Any) -> None:
        biases: list[Bias] = []
        constants: list[tuple[Config, Config | None]] = []
        in_float: list[tuple[Config, str]] = []
        nodes = nodes_by_name(graph)
        for (name, index), config in graph.edges.items():
            node = nodes[name]
            if config.state is not States.PASSIVE_INIT:
                continue
            if BIAS.get(node.op_type) == index:
                found = self._bias(graph, node, index, config)
                if isinstance(found, Bias):
                    biases.append(found)
                else:
                    in_float.append((config, f"the bias of '{name}' stays in float: {found}"))
            elif is_bound(node, index):
                constants.append((config, self._read(graph, node, 0, "RuntimeCalibrationPass")))
        for bias in biases:  # before any is settled: several nodes may share a weight and its config
            for line in bias.raise_weight_scale():
                graph.note(line)
        for bias in biases:
            bias.settle()
        for config, data in constants:
            follow(config, data)
        for config, why in in_float:
            config.state = States.FP32
            graph.note(why)
        log.info("%s: %d biases, %d constants", self.name, len(biases), len(constants))

    def _bias(self, graph: Graph, node: ir.Node, index: int, config: Config) -> Bias | str:
        """The bias with all it follows from; or why it has to stay in float."""
        values = parameter_of(node, index)
        data = self._read(graph, node, 0, "RuntimeCalibrationPass")
        weight = self._read(graph, node, 1, "ParameterQuantizePass")
        ratio = product_ratio(node)
        if values is None:
            return "it is not a constant"
        if data is None or weight is None:
            return f"the node reads its {'input' if data is None else 'weight'} in float"
        if data.is_per_channel:
            return "its input has a scale per channel, so a sum of products has none of its own"
        if weight.is_per_channel and values.shape[-1:] != np.asarray(weight.scale).shape:
            return f"its shape {values.shape} does not have the weight's {np.asarray(weight.scale).size} channels last"
        if not 0 < ratio < np.inf:
            return f"alpha / beta is {ratio:g}"
        if not np.isfinite(values).all():
            raise ObservationError(f"the bias of '{node.name}' has NaN or Inf: mend the model, or leave it in float")
        return Bias(node, config, values, data, weight, ratio)

    def _read(self, graph: Graph, node: ir.Node, index: int, first: str) -> Config | None:
        """The solved config under which `node` reads that input; None when it reads the float value."""
        config = graph.config_read(node, index)
        value = node.inputs[index]
        if config is None or value is None:
            return None
        return require_state(config, SOLVED, f"'{value.name}' (input {index} of {node.name})", self.name, first)


@dataclass
class Bias:
    """A bias that is to become int32, and what its scale follows from: data scale x weight scale x ratio."""

    node: ir.Node
    config: Config
    values: NDArray[Any]
    data: Config
    weight: Config
    ratio: float

    def raise_weight_scale(self) -> list[str]:
        """Raise the weight scale of the channels whose bias would pass the limit. Returns what to report."""
        scale = np.array(self.weight.scale, np.float32)
        largest = np.abs(self.values.astype(np.float64)).reshape(-1, scale.size if scale.ndim else self.values.size)
        largest = largest.max(axis=0) if scale.ndim else largest.max()
        needed = (largest / BIAS_LIMIT / (np.asarray(self.data.scale, np.float64) * self.ratio)).astype(np.float32)
        low = needed > scale
        if not low.any():
            return []
        if self.weight.is_power_of_2:
            needed = np.exp2(np.ceil(np.log2(np.where(low, needed, 1)))).astype(np.float32)
        self.weight.scale = np.where(low, needed, scale)
        name = self.node.inputs[1].name if self.node.inputs[1] is not None else ""
        count = f"{int(low.sum())} of {low.size} channels" if low.ndim else "the tensor"
        return [f"weight '{name}': the scale of {count} was raised so that the bias of '{self.node.name}' fits int32"]

    def settle(self) -> None:
        """Write scale, offset and state into the bias's config, per channel exactly where the weight's is."""
        config = self.config
        scale = np.asarray(self.data.scale * self.weight.scale * np.float32(self.ratio), np.float32)  # type: ignore[operator]
        config.policy = QuantizationPolicy((P.PER_CHANNEL if scale.ndim else P.PER_TENSOR) | P.LINEAR | P.SYMMETRICAL)
        config.channel_axis = self.values.ndim - 1 if scale.ndim else None
        config.scale, config.offset = scale, np.zeros_like(scale)
        config.state = States.PASSIVE


def follow(config: Config, data: Config | None) -> None:
    """Make `config` that of a constant on the scale of `data`; FP32 where that is read in float."""
    if data is None:
        config.state = States.FP32
        return
    config.policy, config.channel_axis = data.policy, data.channel_axis
    config.quant_min, config.quant_max, config.num_of_bits = data.quant_min, data.quant_max, data.num_of_bits
    config.scale, config.offset = data.scale, data.offset
    config.state = States.PASSIVE
