"""Writing models, with their tensors beside them where they are too large for one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from calibrant.graph.graph import PROTOBUF_LIMIT


def external_name(target: Path) -> Path:
    """Where the tensors of a model too large for one file lie: beside it."""
    return target.with_name(target.name + ".data")


def save_model(model: ir.Model, place: Path) -> None:
    """Write `model` to `place`; its tensors to `external_name(place)` when it would pass protobuf's limit.

    Tensors that the source model kept in files of its own are taken along: the new file stands alone.
    """
    size = sum(tensor.nbytes for graph in model.graphs() for tensor in _tensors(graph))
    if size > PROTOBUF_LIMIT:
        ir.save(model, place, external_data=external_name(place).name)
    else:
        ir.save(ir.external_data.load_to_model(model), place)


def _tensors(graph: ir.Graph | ir.Function) -> Iterator[ir.TensorProtocol]:
    if isinstance(graph, ir.Graph):
        yield from (v.const_value for v in graph.initializers.values() if v.const_value is not None)
    for node in graph:
        yield from (a.as_tensor() for a in node.attributes.values() if a.type is ir.AttributeType.TENSOR)
