"""From the model as it was written to one a quantizer can work on. Every step that changes something says so."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
from onnx_ir.passes import common

from calibrant.core import ModelError
from calibrant.graph.bodies import body_graphs
from calibrant.graph.fold_affine import fold_affine
from calibrant.graph.fold_constants import fold_constants
from calibrant.graph.graph import Graph
from calibrant.graph.naming import name_nodes
from calibrant.graph.opset import raise_opset
from calibrant.graph.pooling import spell_pooling
from calibrant.graph.shapes import infer_shapes

PER_CHANNEL_OPSET = 13  # the first with a QuantizeLinear per channel


def clean(graph: Graph, simplify: bool) -> None:
    """Bring the working model into the form that quantizers rely on.

    1. Functions of the model are inlined, so that their operators can be quantized.
    2. Constant nodes become initializers, and initializers are no longer inputs.
    3. The opset is at least 13, and nodes are in an order in which they can run.
    4. With `simplify`: Identity, constant nodes, and affine steps behind computing nodes are folded away; a mean over
       the whole image is a pool.
    5. Every value that inference reaches has a type and a shape; every node has a name of its own.
    """
    model = graph.model
    if model.functions:
        graph.report.append(f"{counted(len(model.functions), 'function')} of the model inlined")
        common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    overridable = [v for v in model.graph.inputs if v.is_initializer()]
    if overridable:
        common.RemoveInitializersFromInputsPass()(model)
        graph.report.append(f"{counted(len(overridable), 'input')} with a default made constant")
        model.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input
    graph.source_inputs = graph.input_names
    _put_in_order(graph)
    raise_opset(graph, PER_CHANNEL_OPSET, "per-channel QuantizeLinear needs it")
    trouble = infer_shapes(model)
    if simplify:
        _simplify(graph)
    if trouble is not None:
        graph.report.append(f"onnx could not infer the shapes: {trouble}")
    name_nodes(model)
    graph.forget_index()
    _report_bodies(graph)


def _put_in_order(graph: Graph) -> None:
    """Sort the nodes so that each stands behind those it reads from. ModelError where there is no such order."""
    try:
        graph.model.graph.sort()
    except ValueError as error:
        where = "the model" if graph.path is None else str(graph.path)
        raise ModelError(f"{where} is damaged: some of its nodes read what is made from their own results") from error


def _simplify(graph: Graph) -> None:
    model = graph.model
    dropped, folded = drop_identities(model.graph), fold_constants(model)
    if folded:
        graph.report.append(f"{counted(folded, 'node')} on constants folded")
    affine = fold_affine(model.graph)
    for (what, into), count in sorted(affine.items()):
        graph.report.append(f"{count} {what} folded into {into}")
    pools = spell_pooling(model)
    if pools:
        graph.report.append(f"{pools} ReduceMean over the whole image taken as GlobalAveragePool")
    if common.RemoveUnusedNodesPass()(model).modified or dropped or folded or affine or pools:
        infer_shapes(model)


def drop_identities(graph: ir.Graph) -> int:
    """Remove Identity nodes; one that makes an output of the graph stays, so that the output keeps its name."""
    dropped = 0
    for node in graph:
        if node.op_type != "Identity" or node.domain or node.inputs[0] is None or node.outputs[0].is_graph_output():
            continue
        node.outputs[0].replace_all_uses_with(node.inputs[0])
        graph.remove(node, safe=True)
        dropped += 1
    return dropped


def _report_bodies(graph: Graph) -> None:
    """Say which nodes have graphs of their own inside: those are left in float."""
    bodies: Counter[str] = Counter()
    for node in graph.model.graph:
        inside = sum(len(body) for body in body_graphs(node))
        if inside:
            bodies[node.op_type] += inside
    for op_type, inside in sorted(bodies.items()):
        graph.report.append(f"left in float: {counted(inside, 'node')} inside {op_type}")


def counted(number: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
