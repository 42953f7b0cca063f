"""Integer operators, spelled as the float operator between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


@dataclass(frozen=True)
class IntegerForm:
    """How an integer operator takes what the float one takes. Numbers are input indices.

    op_type: of the float operator. operands: where its operands stand, each with scale and zero point behind it;
    plain: operands that are no numbers (Where's condition). output: where the output's scale stands, with its zero
    point behind it. bias: where an int32 bias stands, on the scale of the first two operands.
    """

    op_type: str
    operands: tuple[int, ...]
    output: int
    bias: int | None = None
    plain: tuple[int, ...] = ()


# ONNX: QLinearConv, QLinearMatMul; the others are onnxruntime's (docs/ContribOperators.md)
FORMS = {
    "QLinearConv": IntegerForm("Conv", (0, 3), 6, bias=8),
    "QLinearMatMul": IntegerForm("MatMul", (0, 3), 6),
    "QGemm": IntegerForm("Gemm", (0, 3), 7, bias=6),
    "QLinearAdd": IntegerForm("Add", (0, 3), 6),
    "QLinearMul": IntegerForm("Mul", (0, 3), 6),
    "QLinearGlobalAveragePool": IntegerForm("GlobalAveragePool", (0,), 3),
    "QLinearAveragePool": IntegerForm("AveragePool", (0,), 3),
    "QLinearSigmoid": IntegerForm("Sigmoid", (0,), 3),
    "QLinearLeakyRelu": IntegerForm("LeakyRelu", (0,), 3),
    "QLinearSoftmax": IntegerForm("Softmax", (0,), 3),
    "QLinearWhere": IntegerForm("Where", (1, 4), 7, plain=(0,)),
}


def expand_integer_operators(model: ir.Model) -> int:
    """Spell out the integer operators of the main graph, so that all quantized models look alike; returns how many.

    The result is the same but for the order of float additions. An operator that is not in FORMS, or whose channels
    come last, or a bias on a scale that is no constant, stays as it is.
    """
    done = 0
    for node in model.graph:
        form = _concat_form(node) if node.op_type == "QLinearConcat" else FORMS.get(node.op_type)
        if form is not None and _can_be_spelled(node, form):
            _spell(model, node, form)
            done += 1
    return done


def _concat_form(node: ir.Node) -> IntegerForm:
    return IntegerForm("Concat", tuple(range(2, len(node.inputs), 3)), 0)


def _can_be_spelled(node: ir.Node, form: IntegerForm) -> bool:
    last = node.attributes.get("channels_last")
    old = node.attributes.get("opset")  # of a Softmax, which before 13 flattened its input
    biased = form.bias is not None and _at(node, form.bias) is not None
    return (
        (last is None or last.as_int() == 0)
        and (old is None or old.as_int() >= 13)
        and not (biased and _bias_scale(node, form) is None)
    )


def _at(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _spell(model: ir.Model, node: ir.Node, form: IntegerForm) -> None:
    graph, made = model.graph, node.outputs[0]
    added: list[ir.Node] = []
    inputs: list[ir.Value | None] = [_at(node, index) for index in form.plain]
    for index in form.operands:
        x, scale, zero = (_at(node, index + i) for i in range(3))
        axis = _channel_axis(node)
        dequantize = ir.node("DequantizeLinear", [x, _scalar(model, scale), _scalar(model, zero)], {"axis": axis})
        added.append(dequantize)
        inputs.append(dequantize.outputs[0])
    bias = _at(node, form.bias) if form.bias is not None else None
    bias_scale = _bias_scale(node, form)
    if bias is not None and bias_scale is not None:
        scale = _initializer(model, f"{bias.name}_scale", bias_scale)
        dequantize = ir.node("DequantizeLinear", [bias, scale], {"axis": 0})
        added.append(dequantize)
        inputs.append(dequantize.outputs[0])
    kept = {key: value for key, value in node.attributes.items() if key not in ("channels_last", "opset")}
    computing = ir.Node("", form.op_type, inputs, list(kept.values()), name=node.name)
    added.append(computing)
    scale, zero = (_at(node, form.output + i) for i in range(2))
    last = computing
    if scale is not None:  # QGemm without one gives floats
        last = ir.node("QuantizeLinear", [computing.outputs[0], _scalar(model, scale), _scalar(model, zero)])
        added.append(last)
    name = made.name or node.name or ""
    for number, one in enumerate(added):
        one.name = one.name or f"{node.name}_{one.op_type}_{number}"
        one.outputs[0].name = f"{name}_{one.op_type}_{number}"
    graph.insert_before(node, added)
    replacement = last.outputs[0]
    made.replace_all_uses_with(replacement)
    for number, output in enumerate(graph.outputs):
        if output is made:
            graph.outputs[number] = replacement
    replacement.type, replacement.shape = made.type, made.shape
    graph.remove(node, safe=True)
    replacement.name = name


def _channel_axis(node: ir.Node) -> int:
    """Where the channels of a weight lie that has a scale for each."""
    if node.op_type == "QLinearConv":
        return 0
    transposed = node.attributes.get("transB")
    return 0 if node.op_type == "QGemm" and transposed is not None and transposed.as_int() else -1


def _bias_scale(node: ir.Node, form: IntegerForm) -> NDArray[np.float32] | None:
    values = [_at(node, i + 1) for i in form.operands]
    scales = [value.const_value for value in values if value is not None and value.const_value is not None]
    if len(scales) != len(form.operands):
        return None
    product = np.ones((), np.float64)
    for scale in scales:
        product = np.asarray(product * np.squeeze(scale.numpy()))
    alpha = node.attributes.get("alpha")
    return np.asarray(product * (alpha.as_float() if alpha is not None else 1.0), np.float32)


def _scalar(model: ir.Model, value: ir.Value | None) -> ir.Value | None:
    """One number is a scalar, however it is written: DequantizeLinear takes [1] for one channel."""
    tensor = value.const_value if value is not None else None
    if value is None or tensor is None or tensor.size != 1 or len(tensor.shape) == 0:
        return value
    return _initializer(model, f"{value.name}_scalar", tensor.numpy().reshape(()))


def _initializer(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    found = model.graph.initializers.get(name)
    if found is not None:
        return found
    tensor = ir.tensor(array, name=name)
    shape = ir.Shape(np.shape(array))
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    model.graph.register_initializer(value)
    return value
