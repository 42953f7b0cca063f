"""A model seen without its quantization: what computes, and the values, each with all that stands for it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from calibrant.analysis.pairs.expand import expand_integer_operators
from calibrant.core import ModelError
from calibrant.exporters.provenance import rescaled_in
from calibrant.graph import load_onnx_graph
from calibrant.graph.bodies import reads
from calibrant.graph.load import read_onnx
from calibrant.graph.naming import name_nodes
from calibrant.graph.rescaling import rescale_as
from calibrant.graph.shapes import infer_shapes

_ROUNDS = {"QuantizeLinear", "DequantizeLinear"}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def read_pair(float_path: Path, other_path: Path) -> tuple[View, View]:
    """Both models. The first is cleaned as for quantization if it is float; any model will do for either.

    Where channels of the other one were equalized, as its metadata say, so are those of the first: values that
    correspond are alike then.
    """
    other = _as_it_is(other_path)
    rescaled = rescaled_in(other.metadata_props)
    try:
        graph = load_onnx_graph(float_path)
        rescale_as(graph, rescaled)
        first = graph.model
    except ModelError:  # quantized itself, or of an old opset: as it is then
        first = _as_it_is(float_path)
    return View(first), View(other)


def _as_it_is(path: Path) -> ir.Model:
    model = read_onnx(path)
    if model.functions:
        common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveInitializersFromInputsPass()(model)
    model.graph.sort()
    name_nodes(model)
    expand_integer_operators(model)
    infer_shapes(model)
    return model


class View:
    """A model without its quantization.

    nodes: those of the main graph that compute on more than constants, but for QuantizeLinear, DequantizeLinear, and
        what keeps integers inside a grid between them; in an order in which they can run. position: of each.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.opsets = dict(model.opset_imports)
        self.nodes: list[ir.Node] = []
        self.constants: set[ir.Value] = set(model.graph.initializers.values())
        self._origin: dict[ir.Value, ir.Value] = {value: value for value in model.graph.inputs}
        self._aliases: dict[ir.Value, list[ir.Value]] = {value: [value] for value in model.graph.inputs}
        self._readers: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
        rounded: set[ir.Value] = set()  # integers that QuantizeLinear made
        for node in model.graph:
            self._take_in(node, rounded)
        self.position = {node: number for number, node in enumerate(model.graph)}

    def _take_in(self, node: ir.Node, rounded: set[ir.Value]) -> None:
        if not node.outputs:
            return
        if all(value in self.constants for value in reads(node)):
            self.constants.update(node.outputs)
            return
        source = node.inputs[0] if node.inputs else None
        keeps_grid = node.op_type == "Clip" and source in rounded
        if source is not None and source in self._origin and (node.op_type in {*_ROUNDS, "Identity"} or keeps_grid):
            origin = self._origin[source]
            self._origin[node.outputs[0]] = origin
            self._aliases[origin].append(node.outputs[0])
            if node.op_type == "QuantizeLinear" or keeps_grid:
                rounded.add(node.outputs[0])
            return
        self.nodes.append(node)
        for output in node.outputs:
            self._origin[output] = output
            self._aliases[output] = [output]
        for index, value in enumerate(dict.fromkeys(reads(node))):
            if value in self._origin:
                self._readers.setdefault(self._origin[value], []).append((node, index))

    def origin(self, value: ir.Value) -> ir.Value | None:
        """What was computed, before it was quantized; None for a constant."""
        return self._origin.get(value)

    def by_name(self) -> dict[str, ir.Value]:
        """The origin of every value that is not constant, by the value's name."""
        return {value.name or "": origin for value, origin in self._origin.items()}

    def aliases(self, origin: ir.Value) -> list[ir.Value]:
        """The origin, and every value that is nothing but its quantization, integers among them."""
        return self._aliases[origin]

    def readers(self, origin: ir.Value) -> list[tuple[ir.Node, int]]:
        """The computing nodes that read it, quantized or not, and as which of their inputs."""
        return self._readers.get(origin, [])

    def forms(self, origin: ir.Value) -> list[ir.Value]:
        """The float values that stand for it: as it was computed, and each time that it is dequantized."""
        return [v for v in self._aliases[origin] if is_float(v)]

    def is_quantized(self, origin: ir.Value) -> bool:
        """Whether it is quantized anywhere."""
        return len(self._aliases[origin]) > 1

    def is_output(self, origin: ir.Value) -> bool:
        """Whether it is, in some form, an output of the model."""
        return any(value.is_graph_output() for value in self._aliases[origin])

    def only_reader(self, origin: ir.Value) -> ir.Node | None:
        """The one node that reads it, as its first input; None where there are others, or it is an output."""
        readers = self.readers(origin)
        one = len(readers) == 1 and not self.is_output(origin)
        return readers[0][0] if one and self.operand(readers[0][0]) is origin else None

    def operand(self, node: ir.Node) -> ir.Value | None:
        """What the node computes on: the origin of its first input that is no constant."""
        return next((self._origin[v] for v in node.inputs if v is not None and v in self._origin), None)

    def weighs(self, node: ir.Node) -> bool:
        """Whether it has weights: a constant input that is more than one row of numbers, quantized or not."""
        return any(v in self.constants and _is_matrix(v) for v in node.inputs if v is not None)


def is_float(value: ir.Value) -> bool:
    """Whether it holds floats; a value of unknown type does, unless it was just quantized."""
    producer = value.producer()
    if value.dtype is None:
        return producer is None or producer.op_type != "QuantizeLinear"
    return value.dtype in _FLOATS


def _is_matrix(constant: ir.Value) -> bool:
    """Whether more than one of its dimensions is larger than 1; that of a bias is one, however it is written."""
    shape = constant.const_value.shape if constant.const_value is not None else constant.shape
    if shape is not None:
        return sum(dim != 1 for dim in shape) > 1
    producer = constant.producer()
    source = producer.inputs[0] if producer is not None and producer.inputs else None
    return source is not None and _is_matrix(source)
