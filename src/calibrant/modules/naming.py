"""Names from the module: `layer1.0.conv1` for the Conv that it runs and for what that makes, `layer1.0.conv1.weight`.

torch.onnx names nodes and values after its own operators (`node_Conv_811`, `getitem_3`), and notes at each node in
which module it arose. A node and the value it makes are named by these rules; the first that applies wins:

1. A node is named after its weight: `fc.weight` is read by the node `fc`, `attn.in_proj_weight` by `attn.in_proj`.
2. What leaves a module that runs no others is named after it, and so is the node that makes it.
3. Anything else is named after the module and the operator: `layer1.0.Add`; outside of all modules: `Add`.

A name that is taken gets a number, in the order of the nodes: `relu`, `relu_1`. Inputs, outputs and parameters have
theirs first. The same module always gets the same names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import onnx_ir as ir

from calibrant.graph.bodies import body_graphs

SCOPES = "pkg.torch.onnx.name_scopes"  # a list, as text: the modules from the outermost, then torch's operator
ORIGIN = "pkg.torch.onnx.fx_node"  # torch's operator with the names of its operands
_CALL_NUMBER = re.compile(r"@\d+")  # of a module that runs more than once


class Parameter(NamedTuple):
    """A parameter or buffer of the module: its name there, and its shape."""

    name: str
    shape: tuple[int, ...]


def name_after_modules(
    model: ir.Model, inputs: Iterable[str], outputs: Iterable[str], parameters: Mapping[str, Parameter]
) -> None:
    """Rename inputs, outputs, constants, nodes and values of the main graph.

    inputs, outputs: their names, in order. parameters: those of the module, by the names that torch's notes give them.
    """
    graph = model.graph
    names = _Names(v.name or "" for node in graph for body in body_graphs(node) for n in body for v in n.outputs)
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = names.free(name)
    weights = _name_constants(graph, names, parameters)
    given = {value: names.free(name) for value, name in zip(graph.outputs, outputs, strict=True)}
    scopes = {node: _scope(node) for node in graph}
    outer = {scope[: dot.start()] for scope in scopes.values() for dot in re.finditer(r"\.", scope)} | {""}
    shapes = dict(parameters.values())
    own = {node: _weight_s_name(node, scope, weights, shapes) for node, scope in scopes.items()}
    claimed = set(own.values())
    node_names = _Names([])
    for node, scope in scopes.items():
        leaves = scope not in outer and _leaves(node, scopes)
        plain = f"{scope}.{node.op_type}" if scope else node.op_type
        node.name = node_names.free(own[node] or (scope if leaves and scope not in claimed else plain))
        base = scope if leaves else own[node] if own[node] not in (None, scope) else plain
        for value in node.outputs:
            if value.name:
                value.name = given.get(value) or names.free(base or plain)


class _Names:
    """Hands out every name once."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def free(self, base: str) -> str:
        """`base`, or with the first number that is free."""
        name, number = base, self._next.get(base, 1)
        while name in self._taken:
            name, number = f"{base}_{number}", number + 1
        self._next[base] = number
        self._taken.add(name)
        return name


def _name_constants(graph: ir.Graph, names: _Names, parameters: Mapping[str, Parameter]) -> dict[ir.Value, str]:
    """Name the constants; returns those that are parameters -> the name in the module.

    The exporter has names for parameters it takes as they are; not for one that it transposes, nor for a bias that it
    makes of a BatchNormalization.
    """
    known = {parameter.name for parameter in parameters.values()}
    found = {value: name for name, value in graph.initializers.items() if name in known}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value in found:
                continue
            kernel = node.inputs[1] if index == 2 and node.op_type in ("Conv", "ConvTranspose") else None
            weight = found.get(kernel) if kernel is not None else None
            if weight is not None and weight.endswith("weight"):
                found[value] = weight.removesuffix("weight") + "bias"
            elif (original := _transposed(node, value, parameters)) is not None:
                found[value] = original
    values = list(graph.initializers.values())
    graph.initializers.clear()
    for value in sorted(values, key=lambda v: v.name not in known):  # a name that is right already is not given away
        value.name = names.free(found.get(value) or value.name or "constant")
        graph.register_initializer(value)
    return found


def _transposed(node: ir.Node, value: ir.Value, parameters: Mapping[str, Parameter]) -> str | None:
    """The operand of torch's operator that this constant is the transpose of."""
    shape = _shape(value)
    for operand in re.findall(r"%(\w+)", node.metadata_props.get(ORIGIN, "").partition("args")[2]):
        parameter = parameters.get(operand)
        if parameter is not None and len(shape) == 2 and parameter.shape == shape[::-1]:
            return parameter.name
    return None


def _weight_s_name(
    node: ir.Node, scope: str, weights: Mapping[ir.Value, str], shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
    """What a node that computes with a weight is called after it; None where that says nothing.

    The module in which it arose, if that has such a weight: of weights with the same numbers the exporter keeps one.
    Else, a product lies within the scope of its weight, unless the weight is another module's; a Conv may be in that of
    the BatchNormalization that was folded into it.
    """
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    for value in (node.inputs[1], node.inputs[0]):
        name = weights.get(value) if value is not None else None
        if value is None or name is None:
            continue
        shape = _shape(value)
        if scope and shapes.get(f"{scope}.weight") in (shape, shape[::-1]):
            return scope
        base = re.sub(r"[._]?weight$", "", name)
        inside = not scope or base == scope or base.startswith(f"{scope}.")
        return base if base and (inside or node.op_type == "Conv") else None
    return None


def _shape(value: ir.Value) -> tuple[int, ...]:
    return tuple(int(d) for d in value.const_value.shape.numpy()) if value.const_value is not None else ()


def _scope(node: ir.Node) -> str:
    """The innermost module that the node arose in; empty for the outermost one, or where nothing is noted."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    inner = str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    return "" if inner.startswith("_empty_nn_module_stack") else _CALL_NUMBER.sub("", inner)


def _leaves(node: ir.Node, scopes: Mapping[ir.Node, str]) -> bool:
    """Whether the node makes numbers that are read outside of its module alone."""
    value = node.outputs[0]
    if value.dtype is not None and not value.dtype.is_floating_point():
        return False
    return all(scopes.get(use.node) != scopes[node] for use in value.uses())
