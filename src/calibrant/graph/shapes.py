"""Types and shapes of the values."""

from __future__ import annotations

import onnx
import onnx.shape_inference
import onnx_ir as ir

from calibrant.core.errors import first_line

SMALL = 1024  # bytes; onnx's tools may want to see small constants, such as axes and shapes


def infer_shapes(model: ir.Model) -> str | None:
    """Give every value that inference reaches its type and shape; what the model says of its ends stays.

    Returns what went wrong, in one line, where onnx's inference gave up; the values are then as they were.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(without_weights(model), strict_mode=False, data_prop=True)
    except Exception as error:  # it raises its own InferenceError, and what protobuf does
        return first_line(error)
    known = {info.name: info.type for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            kind = known.get(value.name or "")
            declared = value.is_graph_output() and value.type is not None
            if kind is not None and not declared:
                value.type = ir.serde.deserialize_type_proto_for_type(kind) or value.type
                shape = ir.serde.deserialize_type_proto_for_shape(kind)
                value.shape = shape if shape is not None else value.shape  # that of a number is empty, and known
    return None


def without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model as a message that always fits: its larger initializers are inputs in it."""
    light = model.clone()
    for name, value in list(light.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > SMALL:
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(int(d) for d in tensor.shape.numpy())
            value.const_value = None
            del light.graph.initializers[name]
            light.graph.inputs.append(value)
    return ir.serde.serialize_model(light)


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape where every dimension is a known number, else None."""
    if value.shape is None:
        return None
    dims = tuple(d for d in value.shape if isinstance(d, int) and d >= 0)
    return dims if len(dims) == len(value.shape) else None
