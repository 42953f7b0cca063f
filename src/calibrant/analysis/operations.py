"""The operations of a quantized graph as a user counts them: an operator with the activation that runs inside of it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from calibrant.core import StateError, TensorQuantizationConfig
from calibrant.core.policy import IN_FLOAT
from calibrant.exporters.readiness import check_ready
from calibrant.graph import Graph

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Operation:
    """An operator that runs on integers. nodes: it, and what is fused behind it, in order."""

    name: str
    op_type: str
    nodes: tuple[ir.Node, ...]

    @property
    def outputs(self) -> list[ir.Value]:
        """What leaves it."""
        return [value for value in self.nodes[-1].outputs if value.name and value.dtype in (None, *FLOATS)]


def operations_of(graph: Graph) -> list[Operation]:
    """Every operation of a quantized and calibrated graph, in the order of the model.

    Raises StateError for a graph that is not quantized, or whose scales are not found yet.
    """
    if not graph.operations:
        raise StateError(
            "nothing in the graph is quantized: quantize it first, with `quantize_onnx_model` or `quantize`"
        )
    check_ready(graph)
    found = []
    for name, fused in graph.operations.items():
        node = graph.node(name)
        found.append(Operation(name, node.op_type, (node, *map(graph.node, fused))))
    return found


def quantized_inputs(graph: Graph, operation: Operation) -> dict[int, TensorQuantizationConfig]:
    """By index, with which config the operator reads its inputs, activations and parameters; without those in float."""
    node = operation.nodes[0]
    found = {index: graph.config_read(node, index) for index in range(len(node.inputs))}
    return {index: config for index, config in found.items() if config is not None}


def config_behind(graph: Graph, name: str) -> TensorQuantizationConfig | None:
    """The config with which a value is read quantized: its own, else that of the first reader that has one; or None."""
    own = graph.config_of(name)
    if own is not None and own.state not in IN_FLOAT:
        return own
    read = (graph.config_read(use.node, use.idx) for use in graph.value(name).uses())
    return next((config for config in read if config is not None), None)
