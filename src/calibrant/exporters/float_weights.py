"""Weights that are left in float, kept from a runtime that would quantize them itself.

onnxruntime's WeightBiasQuantization (core/optimizer/qdq_transformer, read for 1.32) makes an operation between
DequantizeLinear and QuantizeLinear an integer one though its weight is float: the weight gets one int8 scale, by its
largest value, whatever its channels are. What was left in float for accuracy would lose more than it did in 8 bits.
Moves of data in between do not hide the DequantizeLinear: QDQPropagation repeats it behind them.
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.exporters.names import Names

WEIGHING = ("Conv", "ConvTranspose", "Gemm")
MOVES = ("Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def keep_in_float(model: ir.Model, names: Names) -> None:
    """Put a Max of one value, which is that value, before each of WEIGHING that reads a dequantized value and a float
    weight.

    onnxruntime leaves it where it is, and any opset has it; it costs one pass over the value.
    """
    for node in list(model.graph):
        data = node.inputs[0] if node.op_type in WEIGHING else None
        if data is None or _is_dequantized(node.inputs[1]) or not _is_dequantized(_moved(data)):
            continue
        kept = ir.node("Max", [data], name=names.fresh(f"{node.name}_InFloat"))
        out = kept.outputs[0]
        out.name, out.type, out.shape = names.fresh(f"{data.name}_in_float"), data.type, data.shape
        model.graph.insert_before(node, kept)
        node.replace_input_with(0, out)


def _moved(value: ir.Value) -> ir.Value:
    """The value whose numbers these are."""
    while (producer := value.producer()) is not None and producer.op_type in MOVES and producer.inputs[0] is not None:
        value = producer.inputs[0]
    return value


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
