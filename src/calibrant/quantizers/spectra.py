"""Spectra: what a transform written as a convolution makes, of which squares are taken."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.quantizers.rows import Kind, Role, Table

SQUARED = "only its squares are used, as of a spectrum, whose quiet parts are lost on 256 levels"


def is_squared(value: ir.Value, table: Table) -> bool:
    """Whether everybody who reads the value, or what only moves its numbers, squares it: Pow by 2, Mul by itself."""
    uses = value.uses()
    if value.is_graph_output() or not uses:
        return False
    return all(_squares(node, value) or _moves(node, index, table) for node, index in uses)


def _squares(node: ir.Node, value: ir.Value) -> bool:
    if node.domain or node.op_type not in ("Pow", "Mul"):
        return False
    other = node.inputs[1]
    if node.op_type == "Mul":
        return node.inputs[0] is value and other is value
    exponent = None if other is None else other.const_value
    return node.inputs[0] is value and exponent is not None and bool((exponent.numpy() == 2).all())


def _moves(node: ir.Node, index: int, table: Table) -> bool:
    """Whether the node moves the numbers of that input, and all that it makes is squared."""
    row = None if node.domain else table.rows.get(node.op_type)
    passes = row is not None and row.kind is Kind.PASS and row.role(index) is Role.DATA
    widens = node.op_type == "Cast" and all(v.dtype is not None and v.dtype.is_floating_point() for v in node.outputs)
    return (passes or widens) and all(is_squared(output, table) for output in node.outputs)
