"""The activation that runs right behind an operator, as the ends between which it lets values through."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calibrant.graph.clipping import Ends, ends_of_activation

ANYTHING: Ends = (-np.inf, np.inf)


def activation_ends(node: ir.Node) -> Ends:
    """The ends of the Relu or Clip that alone reads what the node makes; infinite where there is none."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].idx != 0 or value.is_graph_output():
        return ANYTHING
    return ends_of_activation(uses[0].node) or ANYTHING
