"""The weight of an operator that sums products (Conv, ConvTranspose, Gemm, MatMul): where its channels lie in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}  # which input is added to the products


def is_transposed(gemm: ir.Node) -> bool:
    """Whether its weight is (outputs, inputs)."""
    transposed: int = gemm.attributes.get_int("transB", 0)
    return bool(transposed)


def outputs_come_last(node: ir.Node) -> bool:
    """Whether the last axis of its weight is that of the output channels."""
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not is_transposed(node))


def output_channels(node: ir.Node, shape: Sequence[int]) -> int:
    """How many channels it makes with a weight of that shape."""
    if node.op_type == "ConvTranspose":  # (inputs, outputs / group, ...)
        group: int = node.attributes.get_int("group", 1)
        return shape[1] * group
    return shape[-1] if outputs_come_last(node) else shape[0]


def product_ratio(node: ir.Node) -> float:
    """alpha / beta of a Gemm, which scale its product and its bias, inf where beta is 0; 1 for every other node."""
    if node.op_type != "Gemm":
        return 1.0
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    return float(alpha / beta) if beta else float("inf")


def by_input(node: ir.Node, of_inputs: F64) -> F64:
    """What is given for each input channel, (channels,), in a shape that goes with the weight of the node."""
    shape = _shape(node)
    if node.op_type == "Conv":
        group: int = node.attributes.get_int("group", 1)
        each = np.repeat(of_inputs.reshape(group, -1), shape[0] // group, axis=0)
        return each.reshape(*each.shape, *[1] * (len(shape) - 2))
    if node.op_type == "Gemm" and is_transposed(node):
        return of_inputs[None, :]
    return of_inputs.reshape(-1, *[1] * (len(shape) - 1))


def by_output(node: ir.Node, of_outputs: F64) -> F64:
    """What is given for each output channel, (channels,), in a shape that goes with the weight of the node."""
    shape = _shape(node)
    if node.op_type == "ConvTranspose":
        group: int = node.attributes.get_int("group", 1)
        each = np.repeat(of_outputs.reshape(group, -1), shape[0] // group, axis=0)
        return each.reshape(*each.shape, *[1] * (len(shape) - 2))
    return of_outputs if outputs_come_last(node) else of_outputs.reshape(-1, *[1] * (len(shape) - 1))


def seen_by_outputs(node: ir.Node, weight: NDArray[np.float32] | None = None) -> tuple[F64, I64]:
    """The weight of the node as (outputs, inputs of one output, taps), and which input channel each is.

    weight: another of that shape; None: its own.
    """
    own = node.inputs[1].const_value.numpy() if weight is None else weight  # type: ignore[union-attr]
    array = own.astype(np.float64)
    group: int = node.attributes.get_int("group", 1)
    if node.op_type == "ConvTranspose":
        array = array.reshape(group, array.shape[0] // group, array.shape[1], -1).transpose(0, 2, 1, 3)
        array = array.reshape(-1, *array.shape[2:])
    elif outputs_come_last(node):
        array = array.T[:, :, None]
    else:
        array = array.reshape(*array.shape[:2], -1)
    outputs, each = array.shape[:2]
    first = np.arange(outputs) // (outputs // group) * each
    return array, (first[:, None] + np.arange(each)).astype(np.int64)


def _shape(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.inputs[1].const_value.shape.numpy())  # type: ignore[union-attr]
