"""OPENVINO_INT8: QDQ models that OpenVINO's low-precision transformations turn into integer kernels.

Rows after the operators of NNCF's hardware configuration for CPUs (nncf/common/hardware/configs/cpu.json) and after
OpenVINO's documentation "Low Precision Transformations": Convolution, MatMul and element-wise Add and Multiply take
u8 or i8 activations per tensor and i8 weights per channel; AvgPool too; MaxPool, Reshape, Transpose, Split, Concat
(one scale, "unified") ... let integers through. A value is quantized where such an operator reads it; what other
operators read stays in float.
"""

from calibrant.core import TargetPlatform
from calibrant.quantizers.rows import B, C, D, Grid, Kind, O, Row, Table, W, passing

_FUSES = ("Relu", "Clip", "PRelu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "HardSwish", "SiLU", "Gelu", "Mish")

TABLE = Table(
    platform=TargetPlatform.OPENVINO_INT8,
    method="minmax",
    activation=Grid(signed=False),
    weight=Grid(symmetric=True, narrow=True),
    integer_bias=False,
    outputs_when_read=True,
    on_x86=True,
    rows={
        "Conv": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "ConvTranspose": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "Gemm": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "MatMul": Row(Kind.COMPUTE, (D, W), output=False),
        "Add": Row(Kind.JOIN, fuses=_FUSES),
        "Mul": Row(Kind.JOIN, fuses=_FUSES),
        "AveragePool": Row(Kind.JOIN),
        "GlobalAveragePool": Row(Kind.JOIN),
        "ReduceMean": Row(Kind.JOIN, (D, O)),
        "Concat": Row(Kind.ALIGN),
        "Pad": Row(Kind.PASS, (D, O, C, O)),
        **passing("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Tile"),
        **passing("Expand", "Resize", "Identity", "Dropout"),
    },
    float_because={
        "Softmax": "OpenVINO runs it in float",
        "LayerNormalization": "normalization: a mean and a variance need more than 8 bits",
    },
)
