"""What must hold before a graph can be exported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import (
    ExportError,
    QuantizationProperty,
    QuantizationStates,
    RoundingPolicy,
    StateError,
    TensorQuantizationConfig,
)
from calibrant.core.policy import IN_FLOAT
from calibrant.graph.weights import product_ratio

if TYPE_CHECKING:
    from calibrant.graph import Graph


def check_ready(graph: Graph) -> None:
    """Raise StateError, naming the values and the pass to run first, if any config still waits for its scale.

    Also for a bias whose scale is not input scale x weight scale any more: a runtime takes that for granted.
    """
    activations = [name for name, c in activation_configs(graph) if _waits(c)]
    if activations:
        raise StateError(_waiting("activations", activations, "RuntimeCalibrationPass"))
    weights, passive = [], []
    for node, index, config in parameter_configs(graph):
        if config.state is QuantizationStates.INITIAL:
            weights.append(_spot(node, index))
        elif config.state is QuantizationStates.PASSIVE_INIT or config.scale is None:
            passive.append(_spot(node, index))
    if weights:
        raise StateError(_waiting("weights", weights, "ParameterQuantizePass"))
    if passive:
        raise StateError(_waiting("biases and constants", passive, "PassiveParameterQuantizePass"))
    for node, _, config in parameter_configs(graph):
        if config.is_bias:
            _check_bias(graph, node, config)


def check_rounding(graph: Graph, runtime: str) -> None:
    """Raise ExportError for an activation that is not rounded half to even, which is all QuantizeLinear knows.

    Weights may be rounded in any way: they are stored as the integers they became.
    """
    for name, config in activation_configs(graph):
        if config.rounding is not RoundingPolicy.ROUND_HALF_EVEN:
            raise ExportError(
                f"{runtime} cannot round '{name}' by {config.rounding.name}: QuantizeLinear rounds half to even; "
                "set the rounding of activations to ROUND_HALF_EVEN and calibrate again"
            )


def check_float32(graph: Graph, runtime: str) -> None:
    """Raise ExportError for a quantized value that is not float32, which is what QuantizeLinear is written for."""
    read = [(graph.input_of(node.name or "", index), config) for node, index, config in parameter_configs(graph)]
    for name, _ in [*activation_configs(graph), *read]:
        dtype = graph.dtype_of(name)
        if dtype not in (None, ir.DataType.FLOAT):
            raise ExportError(
                f"{runtime}: '{name}' is {dtype.name}, and integers are made of float32 values: give the model in "
                "float32, or leave in float what computes with it"
            )


def check_kind(graph: Graph, runtime: str) -> None:
    """Raise ExportError for a policy that a static QuantizeLinear cannot express (FLOATING, DYNAMIC)."""
    everything = [*activation_configs(graph), *((_spot(n, i), c) for n, i, c in parameter_configs(graph))]
    for name, config in everything:
        for prop in (QuantizationProperty.FLOATING, QuantizationProperty.DYNAMIC):
            if config.policy.has_property(prop):
                raise ExportError(
                    f"{runtime} cannot express the {prop.name} policy of '{name}': "
                    "only static LINEAR quantization is exported"
                )


def activation_configs(graph: Graph) -> Iterator[tuple[str, TensorQuantizationConfig]]:
    """(value name, config) of every activation that is quantized; a value read with several configs comes with each."""
    for group in graph.groups:
        if group.config.state not in IN_FLOAT:
            yield from ((name, group.config) for name in group.values)
    nodes = {node.name: node for node in graph.model.graph}
    for (name, index), config in graph.edges.items():
        value = nodes[name].inputs[index]
        if config.state not in IN_FLOAT and value is not None and not value.is_initializer():
            yield str(value.name), config


def parameter_configs(graph: Graph) -> Iterator[tuple[ir.Node, int, TensorQuantizationConfig]]:
    """(node, input index, config) of every constant that is quantized."""
    nodes = {node.name: node for node in graph.model.graph}
    for (name, index), config in graph.edges.items():
        value = nodes[name].inputs[index]
        if config.state not in IN_FLOAT and value is not None and value.is_initializer():
            yield nodes[name], index, config


def _check_bias(graph: Graph, node: ir.Node, config: TensorQuantizationConfig) -> None:
    expected: NDArray[np.float32] = np.ones((), np.float32)
    for i in (0, 1):
        read = graph.config_read(node, i)
        if read is None or read.scale is None:
            raise StateError(
                f"cannot export: the bias of '{node.name}' is an integer, but input {i} of the node has no scale: "
                "run PassiveParameterQuantizePass again"
            )
        expected = np.asarray(expected * read.scale)
    expected = np.asarray(expected * np.float32(product_ratio(node)))
    scale = np.asarray(config.scale)
    if expected.shape != scale.shape or not np.allclose(scale, expected, rtol=1e-5, atol=0):
        raise StateError(
            f"cannot export: the bias of '{node.name}' is stale: its scale is not input scale x weight scale any "
            "more; run PassiveParameterQuantizePass again"
        )


def _waits(config: TensorQuantizationConfig) -> bool:
    return config.state in (QuantizationStates.INITIAL, QuantizationStates.PASSIVE_INIT) or config.scale is None


def _spot(node: ir.Node, index: int) -> str:
    value = node.inputs[index]
    return f"{'' if value is None else value.name} (input {index} of {node.name})"


def _waiting(what: str, names: list[str], first: str) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"cannot export: the scale of {len(names)} {what} is not found yet ({shown}): run {first} first"
