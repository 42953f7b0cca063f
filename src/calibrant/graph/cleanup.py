"""From the model as it was written to one a quantizer can work on. Every step that changes something says so."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from calibrant.graph.graph import Graph
from calibrant.graph.naming import name_nodes


def clean(graph: Graph, simplify: bool) -> None:
    """Name every node, lift constants to initializers, infer shapes; with `simplify`, fold what is constant."""
    model = graph.model
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    infer_shapes(model)
    name_nodes(model)
    graph.forget_index()


def infer_shapes(model: ir.Model) -> None:
    """Types and shapes of every value that inference can tell; what the model says of its inputs and outputs stays."""
    declared = [(v, v.type, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)]
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    for value, kind, shape in declared:
        if kind is not None:
            value.type = kind
        if shape is not None:
            value.shape = shape
