"""ONNXRUNTIME: QDQ models for onnxruntime's CPU kernels.

Rows after onnxruntime's documentation "Quantize ONNX models" (QDQ format, data type selection, transformer-based
models) and the patterns its QDQ selectors fuse (onnxruntime/core/optimizer/qdq_transformer): Conv, Gemm and Add run
on integers from DQ to Q; MatMul takes integers and gives float; moving operators sit between DQ and Q of one scale.
"""

from calibrant.core import TargetPlatform
from calibrant.quantizers.rows import Grid, Kind, Role, Row, Table

_D, _W, _B, _C, _O = Role.DATA, Role.WEIGHT, Role.BIAS, Role.CONSTANT, Role.OTHER
_FUSES = ("Relu", "Clip")

TABLE = Table(
    platform=TargetPlatform.ONNXRUNTIME,
    method="mse",
    activation=Grid(signed=False),  # with int8, 1.32 leaves Add, and the Convs around it, in float
    weight=Grid(symmetric=True, narrow=True),
    rows={
        "Conv": Row(Kind.COMPUTE, (_D, _W, _B), fuses=_FUSES),
        "ConvTranspose": Row(Kind.COMPUTE, (_D, _W, _B), fuses=_FUSES),
        "Gemm": Row(Kind.COMPUTE, (_D, _W, _B), fuses=_FUSES),
        "MatMul": Row(Kind.COMPUTE, (_D, _W), output=False),
        "Add": Row(Kind.JOIN, (_D, _D), fuses=_FUSES),
        "Concat": Row(Kind.ALIGN),
        "AveragePool": Row(Kind.RESCALE),
        "GlobalAveragePool": Row(Kind.RESCALE),
        "MaxPool": Row(Kind.PASS),
        "Reshape": Row(Kind.PASS, (_D, _O)),
        "Transpose": Row(Kind.PASS),
        "Flatten": Row(Kind.PASS),
        "Squeeze": Row(Kind.PASS, (_D, _O)),
        "Unsqueeze": Row(Kind.PASS, (_D, _O)),
        "Slice": Row(Kind.PASS, (_D, _O)),
        "Split": Row(Kind.PASS, (_D, _O)),
        "Gather": Row(Kind.PASS, (_D, _O)),
        "Resize": Row(Kind.PASS, (_D, _O)),
        "Pad": Row(Kind.PASS, (_D, _O, _C, _O)),
        "DepthToSpace": Row(Kind.PASS),
        "SpaceToDepth": Row(Kind.PASS),
        "Expand": Row(Kind.PASS, (_D, _O)),
        "Tile": Row(Kind.PASS, (_D, _O)),
        "Identity": Row(Kind.PASS),
        "Dropout": Row(Kind.PASS, (_D, _O)),
    },
)
