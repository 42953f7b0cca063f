"""Relu and Clip: the two numbers between which they let values through, and behind which operator they run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

Ends = tuple[float, float]
ANYTHING: Ends = (-np.inf, np.inf)


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


def fused_activation(node: ir.Node) -> ir.Node | None:
    """The Relu or Clip that alone reads its first output; None where that is an output of the model as well."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].idx != 0 or value.is_graph_output():
        return None
    reader = uses[0].node
    is_plain = reader.domain in ("", "ai.onnx") and reader.graph is node.graph
    return reader if is_plain and reader.op_type in ("Relu", "Clip") else None


def activation_ends(node: ir.Node) -> Ends:
    """The ends of `fused_activation`; infinite where there is none."""
    behind = fused_activation(node)
    return (ends_of_activation(behind) if behind is not None else None) or ANYTHING
