"""The float model from a place on: what it makes of values that are quantized already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from calibrant.core import QuantizationStates, TensorQuantizationConfig
from calibrant.engines.session import Runtime, given_to_session, run
from calibrant.engines.stepping import Array, Slot
from calibrant.engines.working import in_memory, part_of
from calibrant.graph import Graph
from calibrant.graph.bodies import read_from_outside, reads
from calibrant.graph.graph import original

SMALL = 1 << 12  # bytes of a constant that may as well be in the model, where shapes are found from it
AS_IT_IS = 0  # the key of the slot of a value that is not quantized: see `Slot`


def key_of(config: TensorQuantizationConfig | None) -> int:
    """The key of the slot of a value that is read by that config."""
    return AS_IT_IS if config is None or config.state is QuantizationStates.FP32 or config.scale is None else id(config)


class Remainder:
    """The nodes of a graph that come after `node` (None: all of them), in float, as far as `value` reaches the ends.

    ends: names of values that come after the node, or of `value`; None: the floating outputs of the model.
    slots: what has to be fed, values in the forms in which they are read. outputs: the ends that depend on the value,
    which may be none.
    protos: the nodes as they are written, filled in: to be shared by remainders of one graph.
    """

    def __init__(
        self,
        graph: Graph,
        node: ir.Node | None,
        value: ir.Value,
        protos: dict[ir.Node, onnx.NodeProto] | None = None,
        ends: Sequence[str] | None = None,
    ) -> None:
        self._graph = graph
        self._protos = {} if protos is None else protos
        nodes = list(graph.model.graph)
        after = nodes[nodes.index(node) + 1 :] if node is not None else nodes
        touched = _reached(after, value)
        wanted = list(filter(_is_float, graph.model.graph.outputs)) if ends is None else list(map(graph.value, ends))
        reached = [end for end in wanted if end in touched]
        self.outputs = [end.name or "" for end in reached]
        nodes = _needed(after, reached)
        self._made = {made for one in nodes for made in one.outputs}
        self._names: dict[Slot, tuple[str, ir.Value]] = {}
        self._weights: dict[str, Array] = {}
        self._session = None
        if self.outputs:
            model = self._model(nodes)
            self._session = Runtime.of(None, 1).open(model, weights=self._weights)

    @property
    def slots(self) -> list[Slot]:
        return list(self._names)

    def run(self, values: Mapping[Slot, Array]) -> list[Array]:
        """The `outputs` of one sample."""
        if self._session is None:
            return []
        feed = {name: values[slot] for slot, (name, _) in self._names.items()}
        return run(self._session, [_renamed(name) for name in self.outputs], feed)

    def _model(self, nodes: list[ir.Node]) -> bytes:
        constants: dict[str, ir.TensorProtocol] = {}
        protos = []
        for node in nodes:
            proto = onnx.NodeProto()
            proto.CopyFrom(self._proto(node))
            for index, read in enumerate(node.inputs):
                if read is not None:
                    proto.input[index] = self._read(read, self._key(node, index), constants)
            for read in read_from_outside(node):
                self._read(read, self._own_key(read), constants)
            protos.append(proto)
        for name in self.outputs:  # under other names, since one may be fed as well
            output = self._graph.value(name)
            source = self._read(output, self._own_key(output), constants)
            protos.append(helper.make_node("Identity", [source], [_renamed(name)]))
        graph = onnx.GraphProto(
            name="remainder",
            node=protos,
            input=[_described(read, name) for name, read in self._names.values()],
            output=[onnx.ValueInfoProto(name=_renamed(name)) for name in self.outputs],
            initializer=[self._constant(tensor, name) for name, tensor in constants.items()],
        )
        return part_of(self._graph.model, graph)

    def _proto(self, node: ir.Node) -> onnx.NodeProto:
        if node not in self._protos:
            self._protos[node] = ir.to_proto(node)
        return self._protos[node]

    def _constant(self, tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
        """With its numbers; those of a weight are left in the memory where they are."""
        if tensor.dtype is not ir.DataType.FLOAT or tensor.nbytes < SMALL:
            return in_memory(tensor, name)
        self._weights[name] = np.ascontiguousarray(tensor.numpy())
        return given_to_session(name, self._weights[name])

    def _read(self, value: ir.Value, key: int, constants: dict[str, ir.TensorProtocol]) -> str:
        """The name under which a node reads that value."""
        name = value.name or ""
        tensor = original(value)
        if tensor is not None and value.is_initializer():
            constants[name] = tensor
        elif value not in self._made:
            given = name if key == self._own_key(value) else f"{name}/{key}"
            name = self._names.setdefault((name, key), (given, value))[0]
        return name

    def _key(self, node: ir.Node, index: int) -> int:
        """The form in which a node reads that input; see `Slot`."""
        return key_of(self._graph.config_read(node, index))

    def _own_key(self, value: ir.Value) -> int:
        """The form in which it is read by who has no config of its own."""
        return key_of(self._graph.config_of(value.name or ""))


def _reached(nodes: list[ir.Node], value: ir.Value) -> set[ir.Value]:
    """The value, and all that these nodes make of it."""
    found = {value}
    for node in nodes:
        if any(read in found for read in reads(node)):
            found.update(node.outputs)
    return found


def _needed(nodes: list[ir.Node], outputs: list[ir.Value]) -> list[ir.Node]:
    """Of these nodes, in their order, those that the outputs are computed by."""
    wanted = set(outputs)
    found = []
    for node in reversed(nodes):
        if any(made in wanted for made in node.outputs):
            found.append(node)
            wanted.update(reads(node))
    return found[::-1]


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _renamed(name: str) -> str:
    return f"{name}/output"


def _described(value: ir.Value, name: str) -> onnx.ValueInfoProto:
    proto: onnx.ValueInfoProto = ir.to_proto(value)
    proto.name = name
    return proto
