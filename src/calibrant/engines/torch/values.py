"""Which values of a model are constants, and what graphs inside of nodes take from around them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calibrant.graph.bodies import read_from_outside

_A = ir.AttributeType


def constant_of(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of an initializer, or of a Constant node; None for any other value."""
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attributes.values():
        if attribute.is_ref():
            return None
        if attribute.type is _A.TENSOR:
            return attribute.as_tensor()
        if attribute.type in (_A.FLOAT, _A.FLOATS):
            return ir.tensor(np.asarray(attribute.value, np.float32))
        if attribute.type in (_A.INT, _A.INTS):
            return ir.tensor(np.asarray(attribute.value, np.int64))
    return None


def captured(node: ir.Node) -> list[ir.Value]:
    """What the graphs inside of a node read of the graphs around it, constants apart."""
    return [value for value in read_from_outside(node) if constant_of(value) is None]
