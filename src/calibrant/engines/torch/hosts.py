"""Which nodes compute shapes and other small numbers: those run on the host, and the device is not waited for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from calibrant.engines.torch.preparing import Prepared
from calibrant.engines.torch.values import constant_of

LARGEST = 1024  # elements of a constant that takes part
TELLING = ("Shape", "Size", "SequenceLength")  # they look at the shape of what lies on the device
_GROW = ("ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample")
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def host_values(
    inputs: Collection[ir.Value], nodes: Sequence[ir.Node], prepared: Callable[[ir.Node], Prepared]
) -> set[ir.Value]:
    """The values of a graph that are to be on the host.

    1. What tells a shape is.
    2. What is computed from such values and small constants is, unless it may be large: then only if nothing reads it
       but as numbers (the shape of a Reshape, the ends of a Slice, the condition of an If).
    3. An integer input is, if nothing reads it but as numbers; any other input, if nothing computes with it at all.
    """
    only_numbers = _read_as_numbers(nodes, prepared)
    host = {
        value
        for value in only_numbers.intersection(inputs)
        if value.dtype in _INTEGERS or all(use.idx in prepared(use.node).parameters for use in value.uses())
    }
    for node in nodes:
        if _on_host(node, prepared(node), host, only_numbers):
            host.update(node.outputs)
    return host


def _on_host(node: ir.Node, how: Prepared, host: set[ir.Value], only_numbers: set[ir.Value]) -> bool:
    if node.op_type in TELLING:
        return True
    if how.bodies:
        return False
    data = [value for i, value in enumerate(node.inputs) if value is not None and i not in how.parameters]
    variable = []
    for value in data:
        constant = constant_of(value)
        if constant is None:
            variable.append(value)
        elif constant.size > LARGEST:
            return False
    if not all(value in host for value in variable):
        return False
    return all(value in only_numbers for value in node.outputs) or (bool(variable) and node.op_type not in _GROW)


def _read_as_numbers(nodes: Sequence[ir.Node], prepared: Callable[[ir.Node], Prepared]) -> set[ir.Value]:
    """The values that nothing reads but as numbers, or to compute such values."""
    found: set[ir.Value] = set()

    def as_number(node: ir.Node, index: int) -> bool:
        return index in prepared(node).parameters or all(value in found for value in node.outputs)

    for node in reversed(nodes):
        for value in (*node.outputs, *node.inputs):
            if value is None or value.is_graph_output() or value in found:
                continue
            uses = value.uses()
            if uses and all(as_number(use.node, use.idx) for use in uses):
                found.add(value)
    return found
