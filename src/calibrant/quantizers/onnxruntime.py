"""ONNXRUNTIME: QDQ models that onnxruntime's CPU kernels run on integers.

After onnxruntime's documentation "Quantize ONNX models" (QDQ format; data type selection: uint8 activations with
int8 weights on x86; transformers: MatMul and Gemm), and after the patterns that it turns into integer kernels, named
in the source of its QDQ selectors
(onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc):

    DQ, DQ[, DQ] -> Conv -> Q           QLinearConv: output quantized, or the node runs in float
    DQ, DQ[, DQ] -> Gemm [-> Q]         QGemm, which gives floats as well: so the scores of a classifier stay float
    DQ, DQ -> MatMul                    MatMulIntegerToFloat: integers in, float out
    DQ, DQ -> Add -> Q                  QLinearAdd
    DQ ... -> Concat -> Q               QLinearConcat
    DQ -> AveragePool -> Q              QLinearAveragePool, with scales of its own; GlobalAveragePool likewise
    DQ -> Reshape ... -> Q              the operator on integers, where both scales are equal
    Relu, Clip -> Q                     removed where the integers saturate just there (relu_/clip_quantizelinear.cc)

Sigmoid, LeakyRelu, Softmax and Mul have integer kernels as well; they are left in float: in networks with gates and in
transformers they cost accuracy (a squeeze-excite gate, attention weights) and hardly any time.

Activations are uint8: with int8 ones, onnxruntime 1.32 leaves Add, and the Convs around it, in float (seen in the
optimized model). Methods, by benchmarks/methods.md: mse serves every kind of network; where
a Clip from above (ReLU6) follows the operator, how large an outlier was is lost anyway, and leaving the rarest values
out (percentile) costs nothing and makes the others finer. Outputs are not clipped (minmax).
"""

from calibrant.core import TargetPlatform
from calibrant.quantizers.rows import B, C, D, Grid, Kind, O, Row, Table, W, passing

_FUSES = ("Relu", "Clip")
_NORMALIZES = "normalization: a mean and a variance need more than 8 bits"
_CURVED = "a curved function; onnxruntime runs it in float"

TABLE = Table(
    platform=TargetPlatform.ONNXRUNTIME,
    method="mse",
    saturated_method="percentile",
    output_method="minmax",
    float_outputs=frozenset({"Gemm"}),
    weight_method="mse",
    activation=Grid(signed=False),
    weight=Grid(symmetric=True, narrow=True),
    most_bits=16,
    fuses_by_grid=True,
    on_x86=True,
    rows={
        "Conv": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "ConvTranspose": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "Gemm": Row(Kind.COMPUTE, (D, W, B), fuses=_FUSES),
        "MatMul": Row(Kind.COMPUTE, (D, W), output=False),
        "Add": Row(Kind.JOIN, fuses=_FUSES),
        "AveragePool": Row(Kind.JOIN),
        "GlobalAveragePool": Row(Kind.JOIN),
        "Concat": Row(Kind.ALIGN),
        "Pad": Row(Kind.PASS, (D, O, C, O)),
        **passing("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather"),
        **passing("GatherElements", "Resize", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Identity", "Dropout"),
    },
    float_because={
        "LayerNormalization": _NORMALIZES,
        "InstanceNormalization": _NORMALIZES,
        "GroupNormalization": _NORMALIZES,
        "BatchNormalization": "not behind a Conv or Gemm into which it could be folded",
        "Softmax": "attention weights and probabilities lose their order on 256 levels",
        "Mul": "gates and decomposed activations lose accuracy on integers",
        "LSTM": "recurrent: errors of one step add up in the next",
        "GRU": "recurrent: errors of one step add up in the next",
        "RNN": "recurrent: errors of one step add up in the next",
        **dict.fromkeys(("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Elu", "Mish"), _CURVED),
        **dict.fromkeys(("Pow", "Sqrt", "ReduceMean", "Sub", "Div"), "part of a normalization or an activation"),
        **dict.fromkeys(("Relu", "Clip"), "not directly behind an integer operator that could hold it"),
    },
)
