"""Relu and Clip as the two numbers between which they let values through."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

Ends = tuple[float, float]


def ends_of_activation(node: ir.Node) -> Ends | None:
    """The two ends of a Relu or Clip, infinite where it has none.

    None for any other node, and for a Clip whose ends are not constant or lie in wrong order.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    ends = [-np.inf, np.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        constant = value.const_value if value.is_initializer() and not value.is_graph_input() else None
        if constant is None or constant.size != 1:
            return None
        ends[index] = float(constant.numpy().reshape(()))
    return (ends[0], ends[1]) if ends[0] <= ends[1] else None
