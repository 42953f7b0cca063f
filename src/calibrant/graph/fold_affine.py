"""Fold what scales and shifts each channel of a computing node into its weight and bias.

    BatchNormalization:  y = (x - mean) * gamma / sqrt(var + epsilon) + beta     (ONNX BatchNormalization, inference)
    Mul, Div, Add, Sub with a constant of one number, or one per output channel

Behind a Conv, ConvTranspose or Gemm with constant weight, when it is the only reader of that node's output: then
y = s * (W x + b) + t is the same node with weight s W and bias s b + t. Computed in float64, stored in the type that
the model has. An integer kernel gains twice: one step less, and an output on the range that the next node reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.graph.shapes import static_shape
from calibrant.graph.weights import by_output, output_channels

F64 = NDArray[np.float64]
HEADS = ("Conv", "ConvTranspose", "Gemm")
STEPS = ("BatchNormalization", "Mul", "Add", "Div", "Sub")


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift, each () or (channels,)."""

    scale: F64
    shift: F64


def fold_affine(graph: ir.Graph) -> Counter[tuple[str, str]]:
    """Fold all there is in the main graph; returns how many, by (what was folded, into what)."""
    folded: Counter[tuple[str, str]] = Counter()
    for head in graph:
        if head.op_type not in HEADS or head.domain:
            continue
        if head.op_type == "Gemm":
            _normalize_gemm(graph, head)
        while (step := _next_step(head)) is not None:
            node, affine = step
            _fold(graph, head, affine)
            _skip(graph, head, node)
            folded[node.op_type, head.op_type] += 1
    return folded


def _next_step(head: ir.Node) -> tuple[ir.Node, Affine] | None:
    """The affine node that alone reads `head`, if it has one and its weights are constants."""
    output = head.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output():
        return None
    reader, index = uses[0].node, uses[0].idx
    if reader.domain or reader.graph is not head.graph or reader.op_type not in STEPS:
        return None
    constant = [_is_constant(v) for v in head.inputs[1:]]
    if not constant or not all(constant) or (head.op_type == "Gemm" and not _plain_gemm(head)):
        return None
    affine = _batch_norm(reader, index) if reader.op_type == "BatchNormalization" else _arithmetic(head, reader, index)
    return None if affine is None else (reader, affine)


def _batch_norm(node: ir.Node, index: int) -> Affine | None:
    made = [v for v in node.outputs if v.name]
    training: int = node.attributes.get_int("training_mode", 0)
    if index != 0 or len(made) != 1 or training:
        return None
    gamma, beta, mean, variance = (_array(v) for v in node.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return Affine(scale, beta - mean * scale)


def _arithmetic(head: ir.Node, node: ir.Node, index: int) -> Affine | None:
    if len(node.inputs) != 2:
        return None
    if index == 1 and node.op_type in ("Div", "Sub"):
        return None
    constant = _per_channel(head, node.inputs[1 - index])
    if constant is None:
        return None
    one, zero = np.float64(1), np.float64(0)
    if node.op_type in ("Mul", "Div"):
        if node.op_type == "Div" and not constant.all():
            return None
        return Affine(constant if node.op_type == "Mul" else 1 / constant, np.asarray(zero))
    return Affine(np.asarray(one), constant if node.op_type == "Add" else -constant)


def _per_channel(head: ir.Node, value: ir.Value | None) -> F64 | None:
    """The constant as () or (channels,), if broadcasting it against the output of `head` means just that."""
    constant = _array(value)
    rank = 2 if head.op_type == "Gemm" else len(head.inputs[1].shape or ()) if head.inputs[1] is not None else 0
    if constant is None or constant.ndim > rank or not np.isfinite(constant).all():
        return None
    if constant.size == 1:
        return constant.reshape(())
    behind_channels = 0 if head.op_type == "Gemm" else rank - 2
    axis = constant.ndim - 1 - behind_channels
    if axis < 0 or constant.shape[axis] != constant.size or constant.size != _channels(head):
        return None
    return constant.reshape(-1)


def _channels(head: ir.Node) -> int:
    """How many output channels the node has."""
    weight = head.inputs[1]
    return output_channels(head, (static_shape(weight) if weight is not None else None) or (0, 0))


def _fold(graph: ir.Graph, head: ir.Node, affine: Affine) -> None:
    weight, bias = _array(head.inputs[1]), _array(head.inputs[2]) if len(head.inputs) > 2 else None
    assert weight is not None
    channels = _channels(head)
    scale = np.broadcast_to(affine.scale, channels)
    shift = (0.0 if bias is None else bias.reshape(-1)) * scale + affine.shift
    _set_constant(graph, head, 1, weight * by_output(head, scale))
    _set_constant(graph, head, 2, np.broadcast_to(shift, channels))


def _set_constant(graph: ir.Graph, node: ir.Node, index: int, array: F64) -> None:
    """Let the node read `array` there. It takes the place of the old constant, unless that has other readers."""
    old = node.inputs[index] if index < len(node.inputs) else None
    dtype = node.inputs[1].const_value.dtype  # type: ignore[union-attr]
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, None)
    if old is not None and not old.uses() and not old.is_graph_output():
        del graph.initializers[old.name or ""]
    name = _free_name(graph, (old.name or "") if old is not None else _bias_name(node))
    tensor = ir.tensor(array.astype(dtype.numpy()), name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    node.replace_input_with(index, value)


def _bias_name(node: ir.Node) -> str:
    """For a bias that the node did not have: `conv1.bias` beside `conv1.weight`."""
    weight = (node.inputs[1].name or "") if node.inputs[1] is not None else ""
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{node.outputs[0].name}_bias"


def _free_name(graph: ir.Graph, base: str) -> str:
    taken = {v.name for node in graph for v in node.outputs} | {v.name for v in graph.inputs} | set(graph.initializers)
    name, number = base, 0
    while name in taken:
        name, number = f"{base}_folded" if number == 0 else f"{base}_folded_{number}", number + 1
    return name


def _skip(graph: ir.Graph, head: ir.Node, node: ir.Node) -> None:
    """Take `node`, which reads `head`, out: `head` makes its output now, under that output's name."""
    kept, gone = head.outputs[0], node.outputs[0]
    name, kind, shape = gone.name, gone.type, gone.shape
    gone.replace_all_uses_with(kept, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    kept.name = name
    kept.type, kept.shape = kind or kept.type, shape if shape is not None else kept.shape


def _normalize_gemm(graph: ir.Graph, node: ir.Node) -> None:
    """alpha and beta into the constants, and a bias of one number, or (1, N), into (N,): what integer kernels take."""
    weight, bias = _array(node.inputs[1]), _array(node.inputs[2]) if len(node.inputs) > 2 else None
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    channels = _channels(node) if weight is not None else 0
    if weight is None or (len(node.inputs) > 2 and (bias is None or bias.size not in (1, channels))):
        return
    if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
        return  # a column: one number per row of the output
    if alpha != 1:
        _set_constant(graph, node, 1, weight * alpha)
    if bias is not None and (beta != 1 or bias.shape != (channels,)):
        _set_constant(graph, node, 2, np.broadcast_to(bias.reshape(-1) * beta, channels))
    node.attributes.pop("alpha", None)
    node.attributes.pop("beta", None)


def _plain_gemm(node: ir.Node) -> bool:
    """Whether y = x W + b, with b absent or of shape (channels,)."""
    scaled = {node.attributes.get_float(k, 1.0) for k in ("alpha", "beta")} != {1.0}
    bias = _array(node.inputs[2]) if len(node.inputs) > 2 else None
    return not scaled and (bias is None or bias.shape == (_channels(node),))


def _array(value: ir.Value | None) -> F64 | None:
    """The constant in float64; None where it is none, or not of a float type."""
    if value is None or value.const_value is None or not _is_constant(value):
        return None
    return np.asarray(value.const_value.numpy(), np.float64)


def _is_constant(value: ir.Value | None) -> bool:
    """Whether it is a constant of a float type."""
    return value is not None and value.const_value is not None and bool(value.const_value.dtype.is_floating_point())
