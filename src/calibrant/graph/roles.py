"""Values that are float, and yet no numbers to quantize: bounds, shapes, masks, and scores with masked ones among them.

A mask is -3.4e38 (or -inf, or -10000) where a score must not count. On an integer grid that also holds it, nothing is
left for the scores: one such value destroys a transformer. So these are found by following the model, not by name.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

SHAPE = "carries a shape, or a size"
MASK = "is a mask"
MASKED = "carries scores in which some are masked out by a huge number"

HUGE = 1e30  # no network computes with such numbers; masks do
LARGE = 9999.0  # -1e4 is the usual mask of float16 models; counted only in a constant with no other number but 0

# Inputs that are shapes, sizes, positions.
_SHAPE_INPUTS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Split": (1,),
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "TopK": (1,),
    "OneHot": (1,),
}
_SIZES = {"Shape", "Size"}  # what they read is data; what they make is not
_FINDS = {"NonZero", "ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "Unique", "RoiAlign"}  # sizes found in data
_COMPUTES = {"Conv", "ConvTranspose", "MatMul", "Gemm", "If", "Loop", "Scan"}
_MOVES_FIRST = {"Reshape", "Expand", "Unsqueeze", "Squeeze", "Slice", "Gather", "Tile", "Split", "Flatten", "Transpose"}
_MOVES = _MOVES_FIRST | {"Concat", "Identity", "Cast"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Where", "Neg", "Max", "Min"}


def is_bound(node: ir.Node, index: int) -> bool:
    """Whether that input, where it is constant, is a bound of a Clip or the filling of a Pad, which stays as it is.

    What the node makes is quantized behind it, to the same integers.
    """
    return node.op_type in ("Clip", "Pad") and index > 0


def not_numbers(graph: ir.Graph) -> dict[ir.Value, str]:
    """The float values of the main graph that must never be quantized -> why."""
    found = dict.fromkeys(_shape_values(graph), SHAPE)
    for node in graph:
        role = _mask_role(node, found)
        if role is not None:
            found.update((v, role) for v in node.outputs if v not in found)
    return {value: why for value, why in found.items() if value.dtype is None or value.dtype.is_floating_point()}


def _shape_values(graph: ir.Graph) -> set[ir.Value]:
    """Everything from which shape inputs are computed."""
    waiting = [
        value
        for node in graph
        for index in _SHAPE_INPUTS.get(node.op_type, ())
        if index < len(node.inputs) and (value := node.inputs[index]) is not None
    ]
    found: set[ir.Value] = set()
    while waiting:
        value = waiting.pop()
        producer = value.producer()
        if value in found or producer is None or producer.op_type in _FINDS | _COMPUTES:
            continue
        found.add(value)
        if producer.op_type not in _SIZES:
            waiting += [v for v in producer.inputs if v is not None]
    return found


def _mask_role(node: ir.Node, found: dict[ir.Value, str]) -> str | None:
    """MASK, MASKED or None: what this node makes, given what is known of its inputs.

    A mask is what comes from bool, or out of a Where on constants, and what is made of masks and constants alone.
    Numbers times a mask of 0 and 1 are numbers again; with a mask of huge values they are MASKED.
    """
    inputs = _numbers_read(node)
    if not inputs:
        return None
    if node.op_type == "Cast" and inputs[0].dtype == ir.DataType.BOOL:
        return MASK
    roles = [found.get(v) for v in inputs]
    constant = all(v.const_value is not None or role in (MASK, SHAPE) for v, role in zip(inputs, roles, strict=True))
    if constant and (MASK in roles or node.op_type == "Where"):
        return MASK
    if MASKED in roles or any(_is_huge(v) for v in inputs):
        return MASKED
    huge_mask = any(role == MASK and _holds_huge(v) for v, role in zip(inputs, roles, strict=True))
    return MASKED if huge_mask else None


def _numbers_read(node: ir.Node) -> list[ir.Value]:
    """The inputs whose numbers end up in the output of a node that moves them or calculates with them."""
    inputs = [v for v in node.inputs if v is not None]
    if node.op_type == "Pad":
        return [
            v for v in (*node.inputs[:1], *node.inputs[2:3]) if v is not None
        ]  # the data, and what it is filled with
    if node.domain or node.op_type not in _MOVES | _ARITHMETIC:
        return []
    if node.op_type in _MOVES_FIRST:
        return inputs[:1]
    return inputs[1:] if node.op_type == "Where" else inputs


def _holds_huge(value: ir.Value, depth: int = 0) -> bool:
    """Whether a huge constant went into the making of this mask."""
    producer = value.producer()
    if producer is None or depth > 20:
        return _is_huge(value)
    return any(_holds_huge(v, depth + 1) for v in _numbers_read(producer))


def _is_huge(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or not tensor.size:
        return False
    numbers = tensor.numpy()
    top = max(abs(float(np.fmax.reduce(numbers, axis=None))), abs(float(np.fmin.reduce(numbers, axis=None))))
    return top >= HUGE or (top >= LARGE and np.unique(numbers[numbers != 0]).size == 1)
