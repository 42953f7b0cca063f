"""The activation that runs right behind an operator, as the ends between which it lets values through."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calibrant.passes.base import parameter_of

Ends = tuple[float, float]
ANYTHING: Ends = (-np.inf, np.inf)


def activation_ends(node: ir.Node) -> Ends:
    """The ends of the Relu or Clip that alone reads what the node makes; infinite where there is none."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].idx != 0 or value.is_graph_output():
        return ANYTHING
    reader = uses[0].node
    if reader.op_type == "Relu":
        return 0.0, np.inf
    if reader.op_type != "Clip":
        return ANYTHING
    ends = list(ANYTHING)
    for index in (1, 2):
        constant = parameter_of(reader, index)
        given = index < len(reader.inputs) and reader.inputs[index] is not None
        if given and (constant is None or constant.size != 1):
            return ANYTHING
        if constant is not None:
            ends[index - 1] = float(constant.reshape(()))
    return ends[0], ends[1]
