"""The float model of a graph as onnxruntime takes it, with any of its values as outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.engines.session import given_to_session
from calibrant.graph import Graph

BYTES_LIMIT = 1 << 28  # larger models go through a file: a session keeps the bytes it was made from
SMALL = 1024  # bytes; smaller constants stay in the model, where onnxruntime's optimizer looks at them


class Exposed(NamedTuple):
    """What a session is opened from: see `Runtime.open`. weights: have to live as long as the session."""

    source: bytes | Path
    weights: Mapping[str, NDArray[np.float32]]


class WorkingModel:
    """Serializes `graph` with the outputs asked for. Never changes it.

    folder: where files are put for a model that is large, or whose weights lie outside of it.
    """

    def __init__(self, graph: Graph, folder: Path) -> None:
        self._graph = graph
        self._folder = folder

    def exposing(self, names: Sequence[str]) -> Exposed:
        """The model with exactly the outputs `names`."""
        if _needs_file(self._graph):
            return Exposed(self._in_a_file(names), {})
        light, weights = _apart(self._graph.float_model(), names)
        set_outputs(light, names)
        return Exposed(light.SerializeToString(), weights)

    def whole(self, names: Sequence[str]) -> bytes | Path:
        """The same in one piece, for a session that is given no weights."""
        if _needs_file(self._graph):
            return self._in_a_file(names)
        model = ir.to_proto(self._graph.float_model())
        set_outputs(model, names)
        return cast(bytes, model.SerializeToString())

    def _in_a_file(self, names: Sequence[str]) -> Path:
        saved = self._folder / "model.onnx"
        if not saved.exists():
            ir.save(self._graph.float_model(), saved, external_data="model.weights")  # wherever the weights are now
        model = onnx.load(saved, load_external_data=False)
        set_outputs(model, names)
        exposed = self._folder / "exposed.onnx"  # external data is looked for beside it
        onnx.save(model, exposed)
        return exposed


def set_outputs(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Make `names` the outputs of `model`; onnxruntime infers their types."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)


def _apart(model: ir.Model, outputs: Sequence[str]) -> tuple[onnx.ModelProto, dict[str, NDArray[np.float32]]]:
    """The model without the numbers of its larger weights, and these: neither the message, nor its bytes, nor the
    session that reads them has a copy."""
    light = model.clone()
    weights = {}
    for name, value in list(light.graph.initializers.items()):
        tensor = value.const_value
        inside = not value.is_graph_input() and not value.is_graph_output() and name not in outputs
        if tensor is not None and tensor.dtype is ir.DataType.FLOAT and tensor.nbytes > SMALL and inside:
            weights[name] = np.ascontiguousarray(tensor.numpy())
            value.const_value = None
            del light.graph.initializers[name]
    proto: onnx.ModelProto = ir.to_proto(light)
    proto.graph.initializer.extend(given_to_session(name, array) for name, array in weights.items())
    return proto, weights


def part_of(model: ir.Model, graph: onnx.GraphProto) -> bytes:
    """Nodes of that model as a model of their own, serialized: they mean what its opsets and functions say."""
    opsets = {"": onnx.defs.onnx_opset_version()} | dict(model.opset_imports)  # it may have none but other domains
    part = onnx.helper.make_model(
        graph,
        ir_version=model.ir_version,
        opset_imports=[onnx.helper.make_opsetid(*entry) for entry in opsets.items()],
        functions=[ir.to_proto(function) for function in model.functions.values()],
    )
    return cast(bytes, part.SerializeToString())


def in_memory(tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    """The tensor with its numbers, which may lie in another file, under that name."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype)
    proto: onnx.TensorProto = ir.to_proto(tensor)
    proto.name = name
    return proto


def has_convolutions(graph: Graph) -> bool:
    """Whether onnxruntime may run part of the graph in its blocked layout."""
    return any(node.op_type in ("Conv", "FusedConv") for node in graph.model.graph)


def _needs_file(graph: Graph) -> bool:
    weights = [value.const_value for g in graph.model.graphs() for value in g.initializers.values()]
    return graph.weight_bytes > BYTES_LIMIT or any(isinstance(weight, ir.ExternalTensor) for weight in weights)
