"""What runs in float between quantized values, kept from a runtime that would make integer operations of it.

Of weights in float: onnxruntime's WeightBiasQuantization (core/optimizer/qdq_transformer, read for 1.32) makes an
operation between DequantizeLinear and QuantizeLinear an integer one though its weight is float: the weight gets one
int8 scale, by its largest value, whatever its channels are. What was left in float for accuracy would lose more than it
did in 8 bits. Moves of data in between do not hide the DequantizeLinear: QDQPropagation repeats it behind them.

Of values with a scale per channel: its integer kernels take one scale for what they read. It makes integer operations
of Conv, MatMul, pools, Sigmoid and others all the same, and these then fail.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from calibrant.graph.naming import Names

WEIGHING = ("Conv", "ConvTranspose", "Gemm")
MOVES = ("Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def keep_in_float(model: ir.Model, names: Names) -> None:
    """Put a Max of one value, which is that value, before each of WEIGHING that reads a dequantized value and a float
    weight, and before all that reads a value which was dequantized by a scale per channel.

    onnxruntime leaves it where it is, and any opset has it; it costs one pass over the value.
    """
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear" and _has_many_scales(node):
            value = node.outputs[0]
            readers = [(use.node, use.idx) for use in value.uses() if use.node.graph is model.graph]
            if readers:
                model.graph.insert_after(node, _same(value, readers, names.fresh(f"{value.name}_InFloat"), names))
            continue
        data = node.inputs[0] if node.op_type in WEIGHING else None
        if data is not None and _is_dequantized(_moved(data)) and not _is_dequantized(node.inputs[1]):
            same = _same(data, [(node, 0)], names.fresh(f"{node.name}_InFloat"), names)
            model.graph.insert_before(node, same)


def _same(value: ir.Value, readers: Sequence[tuple[ir.Node, int]], name: str, names: Names) -> ir.Node:
    """A Max of that value alone, which these read instead."""
    kept = ir.node("Max", [value], name=name)
    out = kept.outputs[0]
    out.name, out.type, out.shape = names.fresh(f"{value.name}_in_float"), value.type, value.shape
    for node, index in readers:
        node.replace_input_with(index, out)
    return kept


def _has_many_scales(dequantizing: ir.Node) -> bool:
    """Whether it makes an activation, by more than one scale."""
    data, scale = dequantizing.inputs[:2]
    constant = data is None or data.producer() is None
    return not constant and scale is not None and scale.const_value is not None and scale.const_value.size > 1


def _moved(value: ir.Value) -> ir.Value:
    """The value whose numbers these are."""
    while (producer := value.producer()) is not None and producer.op_type in MOVES and producer.inputs[0] is not None:
        value = producer.inputs[0]
    return value


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
