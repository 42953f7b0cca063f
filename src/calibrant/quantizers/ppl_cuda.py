"""PPL_CUDA_INT8: the ONNX model for PPL.NN's CUDA kernels, with a file of quantization parameters beside it.

Rows after PPQ's PPLCUDAQuantizer: its quantized operators; int8 symmetric per tensor on -128..127, percentile;
weights symmetric per channel, minmax; its passive operators (Resize, MaxPool, GlobalMaxPool, Reshape, Slice, Pad,
Split, Transpose, Clip), which keep the scale of their input; its fusions behind a Conv (Relu, Clip, LeakyRelu, Sigmoid,
and Sigmoid-Mul, Swish), and behind Gemm and ConvTranspose (Relu, Clip); its alignment of what an Add, Sub or Concat
brings together; MatMul as in its later quantizers, with the output in float as on the other platforms. Biases stay in
float: the runtime quantizes them itself.
"""

from calibrant.core import TargetPlatform
from calibrant.quantizers.rows import B, C, D, Grid, Kind, O, Row, Table, W, passing

_CONV_FUSES = ("Relu", "Clip", "PRelu", "LeakyRelu", "Sigmoid", "SiLU")
_LINEAR = ("Relu", "Clip")

TABLE = Table(
    platform=TargetPlatform.PPL_CUDA_INT8,
    method="percentile",
    activation=Grid(symmetric=True),
    weight=Grid(symmetric=True),
    symmetric_only=True,
    integer_bias=False,
    rows={
        "Conv": Row(Kind.COMPUTE, (D, W, B), fuses=_CONV_FUSES),
        "ConvTranspose": Row(Kind.COMPUTE, (D, W, B), fuses=_LINEAR),
        "Gemm": Row(Kind.COMPUTE, (D, W, B), fuses=_LINEAR),
        "MatMul": Row(Kind.COMPUTE, (D, W), output=False),
        "Add": Row(Kind.LEVEL, fuses=_LINEAR),
        "Sub": Row(Kind.LEVEL, fuses=_LINEAR),
        "Mul": Row(Kind.JOIN),
        "AveragePool": Row(Kind.JOIN),
        "GlobalAveragePool": Row(Kind.JOIN),
        "ReduceMean": Row(Kind.JOIN, (D, O)),
        "Relu": Row(Kind.JOIN),
        "PRelu": Row(Kind.JOIN, (D, O)),
        "LeakyRelu": Row(Kind.JOIN),
        "Sigmoid": Row(Kind.JOIN),
        "Concat": Row(Kind.ALIGN),
        "Clip": Row(Kind.PASS, (D, C)),
        "Pad": Row(Kind.PASS, (D, O, C, O)),
        **passing("MaxPool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Split", "Resize"),
        **passing("Identity", "Dropout"),
    },
    float_because={
        "Softmax": "PPL.NN runs it in float",
    },
)
