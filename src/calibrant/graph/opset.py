"""Raise the opset of the working model, where quantization needs a newer operator."""

from __future__ import annotations

import onnx
import onnx.helper
import onnx.version_converter
import onnx_ir as ir

from calibrant.core import ModelError
from calibrant.core.errors import first_line
from calibrant.graph.bodies import body_graphs
from calibrant.graph.graph import Graph
from calibrant.graph.naming import name_nodes
from calibrant.graph.shapes import infer_shapes, without_weights

# onnx's converter drops what it does not know of a model, and holds it in one message. So it gets the graph without
# the larger weights, and only the nodes of its answer are taken.


def raise_opset(graph: Graph, version: int, because: str) -> bool:
    """Make the working model use at least that opset; says so in the report. Returns whether anything was done.

    Raises ModelError when onnx's converter cannot; the model is then as before.
    """
    model = graph.model
    before = model.opset_imports.get("")
    if before is None or before >= version:
        return False
    try:
        if before < 13 <= version:
            _check_hardmax(model)
        converted = ir.from_proto(onnx.version_converter.convert_version(without_weights(model), version))
    except Exception as error:  # the converter raises RuntimeError, ValueError and its own
        reason = first_line(error)
        raise ModelError(
            f"the model's opset {before} must be raised to {version} ({because}), which onnx.version_converter "
            f"cannot: {reason}. Export the model with opset {version}"
        ) from error
    _take_nodes(model, converted)
    model.opset_imports[""] = version
    minimum = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)], ignore_unknown=True)
    model.ir_version = max(model.ir_version, minimum)
    name_nodes(model)
    infer_shapes(model)
    graph.forget_index()
    graph.report.append(f"opset {before} raised to {version}: {because}")
    return True


def _check_hardmax(model: ir.Model) -> None:
    """Raise ValueError for a Hardmax that the converter would change: before opset 13, its axis and all behind are one.

    It leaves the node as it is, which is right for the last axis alone; Softmax and LogSoftmax it converts.
    """
    for node in model.graph.all_nodes():
        if node.op_type != "Hardmax" or node.domain not in ("", "ai.onnx"):
            continue
        axis, value = node.attributes.get("axis"), node.inputs[0]
        rank = None if value is None or value.shape is None else len(value.shape)
        last = rank == 2 if axis is None else rank is not None and axis.as_int() % rank == rank - 1
        if not last and (axis is None or axis.as_int() != -1):
            raise ValueError(
                f"Hardmax '{node.name}' is not known to be over the last axis, and means another one from 13"
            )


def _take_nodes(model: ir.Model, converted: ir.Model) -> None:
    """Put the nodes of `converted` in the place of the model's own; inputs, outputs and weights stay."""
    old, new = model.graph, converted.graph
    ours: dict[str, ir.Value] = {v.name or "": v for v in (*old.inputs, *old.initializers.values())}
    outputs = [v.name or "" for v in old.outputs]
    types = [(v.type, v.shape) for v in old.outputs]
    for value in (*new.inputs, *new.initializers.values()):
        theirs = ours.get(value.name or "")
        if theirs is None:  # a constant that the converter added
            theirs = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)
            old.register_initializer(theirs)
        value.replace_all_uses_with(theirs, replace_graph_outputs=True)
    made = {v.name or "": v for v in new.outputs}
    nodes = list(new)
    new.outputs.clear()
    new.remove(nodes)
    old.outputs.clear()
    for node in list(old):
        _let_go(node)
        old.remove(node)
    old.extend(nodes)
    for name, (kind, shape) in zip(outputs, types, strict=True):
        value = made.get(name) or ours[name]
        value.type, value.shape = kind or value.type, shape if shape is not None else value.shape
        old.outputs.append(value)


def _let_go(node: ir.Node) -> None:
    """Take the node, and those inside it, off the lists of readers of what they read."""
    for body in body_graphs(node):
        for inner in body:
            _let_go(inner)
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)
