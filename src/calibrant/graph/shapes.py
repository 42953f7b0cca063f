"""Types and shapes of the values."""

import onnx_ir as ir
from onnx_ir.passes import common


def infer_shapes(model: ir.Model) -> None:
    """Types and shapes of every value that inference can tell; what the model says of its inputs and outputs stays."""
    declared = [(v, v.type, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)]
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    for value, kind, shape in declared:
        if kind is not None:
            value.type = kind
        if shape is not None:
            value.shape = shape


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape where every dimension is a known number, else None."""
    if value.shape is None:
        return None
    dims = tuple(d for d in value.shape if isinstance(d, int) and d >= 0)
    return dims if len(dims) == len(value.shape) else None
