"""Operators of ONNX in torch: a table, one small function each, in files by theme."""

from calibrant.engines.torch.ops import (  # noqa: F401 - each enters its functions into the table
    attention,
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resize,
    sequences,
    shapes,
    signal,
)
from calibrant.engines.torch.ops.registry import TABLE, Call, Operator, Unsupported

__all__ = ["TABLE", "Call", "Operator", "Unsupported"]
