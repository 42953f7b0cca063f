"""A Relu or Clip right before QuantizeLinear, as bounds on the integers behind it.

QuantizeLinear is monotone, so  Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b))  exactly, rounding included. The right side
lets a runtime fuse the op before the activation with Q, and where Q(a) and Q(b) are the ends of the integer type,
as they are for a calibrated ReLU or ReLU6, nothing of the activation remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrant.core import TensorQuantizationConfig, quantize


@dataclass(frozen=True)
class Bounds:
    """The activation node that can be left out, and the integers its ends become."""

    node: ir.Node
    low: int
    high: int


def foldable(value: ir.Value, config: TensorQuantizationConfig) -> Bounds | None:
    """The activation that makes `value`, when quantizing its input by `config` and clipping the integers is the same.

    None when: `value` is made by something else, or by a Clip whose ends are not constant or lie in wrong order;
    the activation's input has other readers or is a graph output; scales are per channel (as would be the bounds).
    """
    node = value.producer()
    if node is None or config.is_per_channel:
        return None
    ends = _ends(node)
    before = node.inputs[0]
    if ends is None or before is None or len(before.uses()) != 1 or before.is_graph_output():
        return None
    low, high = (int(q) for q in quantize(np.asarray(ends, np.float32), config))
    return Bounds(node, low, high)


def _ends(node: ir.Node) -> tuple[float, float] | None:
    """The two ends of a Relu or Clip, infinite where it has none; None for any other node."""
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
