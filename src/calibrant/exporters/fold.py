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
from calibrant.graph.clipping import ends_of_activation


@dataclass(frozen=True)
class Bounds:
    """The activation node that can be left out, and the integers its ends become."""

    node: ir.Node
    low: int
    high: int


def foldable(value: ir.Value, config: TensorQuantizationConfig) -> Bounds | None:
    """The activation that makes `value`, when quantizing its input by `config` and clipping the integers is the same.

    None when: `value` is made by something else, or by a Clip whose ends are not constant or lie in wrong order;
    the activation's input has other readers or is a graph output, or is on a grid already, where two roundings would
    follow each other that a runtime may make one; scales are per channel (as would be the bounds).
    """
    node = value.producer()
    if node is None or config.is_per_channel:
        return None
    ends = ends_of_activation(node)
    before = node.inputs[0]
    if ends is None or before is None or len(before.uses()) != 1 or before.is_graph_output():
        return None
    maker = before.producer()
    if maker is not None and maker.op_type == "DequantizeLinear":
        return None
    low, high = (int(q) for q in quantize(np.asarray(ends, np.float32), config))
    return Bounds(node, low, high)
