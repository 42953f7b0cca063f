"""The float model of a graph as onnxruntime takes it, with any of its values as outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import onnx
import onnx_ir as ir

from calibrant.graph import Graph

BYTES_LIMIT = 1 << 28  # larger models go through a file: a session keeps the bytes it was made from


class WorkingModel:
    """Serializes `graph` with the outputs asked for. Never changes it.

    folder: where files are put for a model that is large, or whose weights lie outside of it.
    """

    def __init__(self, graph: Graph, folder: Path) -> None:
        self._graph = graph
        self._folder = folder

    def exposing(self, names: Sequence[str]) -> bytes | Path:
        """The model with exactly the outputs `names`."""
        if not _needs_file(self._graph):
            model = ir.to_proto(self._graph.float_model())
            set_outputs(model, names)
            return cast(bytes, model.SerializeToString())
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
