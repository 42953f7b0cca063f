"""TRT_INT8: QDQ models for NVIDIA TensorRT's explicit quantization.

After the TensorRT documentation, "Working with Quantized Types" (symmetric, zero point 0) and "Explicit Quantization"
(Q/DQ layer-placement recommendations): quantize all inputs of weighted operators; do not quantize their outputs; bias
stays in float (a quantized bias is refused); quantize the residual input of an Add, so that it fuses into the Conv
before it. Operators that move or pool numbers commute with Q/DQ. Grid +-127 and entropy calibration ("kl"): S. Migacz,
"8-bit Inference with TensorRT", GTC 2017. Convolutions fuse with element-wise activations ("Types of Fusions").
"""

from calibrant.core import TargetPlatform
from calibrant.quantizers.rows import B, D, Grid, Kind, Row, Table, W, passing

_FUSES = ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Elu", "HardSwish", "SiLU", "Gelu")
_POINTWISE = "TensorRT runs it in the precision around it, fused where it can"

TABLE = Table(
    platform=TargetPlatform.TRT_INT8,
    method="kl",
    activation=Grid(symmetric=True, narrow=True),
    weight=Grid(symmetric=True, narrow=True),
    symmetric_only=True,
    integer_bias=False,
    outputs_when_read=True,
    rows={
        "Conv": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "ConvTranspose": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "Gemm": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "MatMul": Row(Kind.COMPUTE, (D, W), output=False),
        "Add": Row(Kind.JOIN, fuses=_FUSES, one_input=True),
        "AveragePool": Row(Kind.JOIN),
        "GlobalAveragePool": Row(Kind.JOIN),
        "Concat": Row(Kind.ALIGN),
        **passing("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize"),
        **passing("Identity", "Dropout"),
    },
    float_because={
        "Softmax": "TensorRT runs it in float",
        "LayerNormalization": "TensorRT runs it in float",
        **dict.fromkeys(("Relu", "Clip", "Sigmoid", "Mul", "Sub", "Div", "Tanh", "HardSwish"), _POINTWISE),
    },
)
