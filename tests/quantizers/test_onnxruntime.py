"""The rules of ONNXRUNTIME, one small model each."""

import numpy as np
import pytest
from onnx import helper

from calibrant.core import TargetPlatform
from calibrant.graph import load_onnx_graph
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting
from tests.quantizers.placed import floats, groups

CONV = "c = Conv(x, w, b)"
WEIGHTS = {"w": (3, 3, 1, 1), "b": (3,)}
X = "(float[N,3,8,8] x) => (float[N,3,8,8] y)"


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_computing_operators_quantize_input_weight_bias_and_output(quantized, op_type):
    graph = quantized(X + "{ y = " + op_type + "(x, w, b) }", **WEIGHTS)
    assert groups(graph) == [["x"], ["y"]]
    weight, bias = (graph.edges[f"{op_type}_0", i] for i in (1, 2))
    assert weight.channel_axis == (0 if op_type == "Conv" else 1)
    assert (bias.num_of_bits, bias.channel_axis) == (32, 0)
    assert graph.left_in_float == {}


@pytest.mark.parametrize(("trans", "axis"), [(0, 1), (1, 0)])
def test_gemm(quantized, trans, axis):
    graph = quantized(
        "(float[N,4] x) => (float[N,6] y) { y = Gemm <transB = %d> (x, w, b) }" % trans,  # noqa: UP031
        w=(6, 4) if trans else (4, 6),
        b=(6,),
    )
    assert groups(graph) == [["x"]]
    assert [g.values for g in graph.float_outputs] == [["y"]]
    assert graph.config_of("y") is None
    assert graph.edges["Gemm_0", 1].channel_axis == axis
    assert graph.edges["Gemm_0", 2].num_of_bits == 32


def test_gemm_quantizes_an_output_that_is_read_overridden_or_asked_for(quantized, setting):
    text = "(float[N,4] x) => (float[N,6] y, float[N,6] z) { y = Gemm(x, w, b) z = Gemm(y, v, b) }"
    assert groups(quantized(text, w=(4, 6), v=(6, 6), b=(6,))) == [["x"], ["y"]]
    setting.overrides = {"z": {"calib_algorithm": "minmax"}}
    graph = quantized(text, setting=setting, w=(4, 6), v=(6, 6), b=(6,))
    assert groups(graph) == [["x"], ["y"], ["z"]]
    graph = quantized(text, w=(4, 6), v=(6, 6), b=(6,))
    graph.quantize_output(graph.float_outputs[0])
    assert (groups(graph), graph.float_outputs) == ([["x"], ["y"], ["z"]], [])
    assert graph.config_of("z") is graph.groups[-1].config


def test_gemm_with_a_scaled_variable_bias_stays_in_float(quantized):
    graph = quantized("(float[N,4] x, float[6] c) => (float[N,6] y) { y = Gemm(x, w, c) }", w=(4, 6))
    assert graph.groups == []
    assert graph.left_in_float == {"Gemm_0": "its bias is no constant of the model"}


def test_matmul_takes_integers_and_gives_float(quantized):
    graph = quantized(
        "(float[N,L,4] x, float[N,4,L] z) => (float[N,L,L] y) { h = MatMul(x, w)  y = MatMul(h, z) }", w=(4, 4)
    )
    assert groups(graph) == [["x"], ["z"], ["h"]]
    assert graph.config_of("y") is None
    assert graph.edges["MatMul_0", 1].channel_axis == 1
    assert ("MatMul_1", 1) not in graph.edges


def test_a_constant_on_the_left_of_a_matmul_is_quantized_per_tensor(quantized):
    graph = quantized("(float[4,L] x) => (float[4,L] y) { y = MatMul(w, x) }", w=(4, 4))
    assert groups(graph) == [["x"]]
    assert not graph.edges["MatMul_0", 0].is_per_channel


@pytest.mark.parametrize("activation", ["Relu(c)", "Clip(c, zero, six)", "Clip(c, zero)"])
def test_relu_and_clip_from_zero_are_fused(quantized, activation):
    graph = quantized(X + "{" + CONV + " y = " + activation + "}", **WEIGHTS, zero=np.float32(0), six=np.float32(6))
    assert groups(graph) == [["x"], ["y"]]
    assert graph.left_in_float == {}


def test_what_the_grid_does_not_imply_is_not_fused(quantized):
    low = quantized(X + "{" + CONV + " y = Clip(c, low) }", **WEIGHTS, low=np.float32(-1))
    assert groups(low) == [["x"], ["c"]]
    assert set(low.left_in_float) == {"Clip_0"}
    setting = QuantizationSetting()
    setting.quantize_activation_setting.symmetric = True
    symmetric = quantized(X + "{" + CONV + " y = Relu(c) }", setting=setting, **WEIGHTS)
    assert groups(symmetric) == [["x"], ["c"]]
    for activation in ("HardSwish(c)", "Sigmoid(c)", "LeakyRelu(c)"):
        graph = quantized(X + "{" + CONV + " y = " + activation + "}", **WEIGHTS)
        assert groups(graph) == [["x"], ["c"]]
        assert len(graph.left_in_float) == 1


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z) { c = Conv(x, w, b) y = Relu(c) z = Neg(c) }",
        "(float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] c) { c = Conv(x, w, b) y = Relu(c) }",
    ],
)
def test_a_value_with_other_readers_is_not_fused_away(quantized, text):
    assert groups(quantized(text, **WEIGHTS)) == [["x"], ["c"]]


def test_without_fusion_every_output_is_quantized(quantized):
    setting = QuantizationSetting()
    setting.fusion = False
    graph = quantized(X + "{" + CONV + " y = Relu(c) }", setting=setting, **WEIGHTS)
    assert groups(graph) == [["x"], ["c"]]


def test_a_residual_add_of_quantized_values_is_quantized_with_its_relu(quantized):
    graph = quantized(X + "{ a = Conv(x, w, b) r = Relu(a) c = Conv(r, w, b) s = Add(c, r) y = Relu(s) }", **WEIGHTS)
    assert groups(graph) == [["x"], ["r"], ["c"], ["y"]]
    assert graph.left_in_float == {}


@pytest.mark.parametrize(
    ("add", "reason"),
    [
        ("Add(c, k)", "one of its inputs is a constant"),
        ("Add(c, x)", "one of its inputs is float"),
        ("Add(c, f)", "one of its inputs is float"),
    ],
)
def test_an_add_with_a_float_or_constant_input_stays_in_float(quantized, add, reason):
    text = "(float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z) { c = Conv(x, w) f = Neg(c) y = %s z = Abs(f) }"
    graph = quantized(text % add, w=(3, 3, 1, 1), k=(1, 3, 8, 8))
    assert graph.left_in_float["Add_0"] == reason
    assert graph.config_of("y") is None


def test_concat_puts_its_inputs_and_output_on_one_scale_of_all_its_roots(quantized):
    graph = quantized(
        "(float[N,3,8,8] x) => (float[N,6,8,8] y)"
        "{ a = Conv(x, w, b) c = Conv(a, w, b) p = MaxPool <kernel_shape = [1,1]> (c) y = Concat <axis = 1> (a, p) }",
        **WEIGHTS,
    )
    assert groups(graph) == [["x"], ["a", "c", "p", "y"]]
    assert graph.groups[1].roots == ["a", "c"]


def test_concat_with_a_float_input_stays_in_float(quantized):
    graph = quantized(
        "(float[N,3,8,8] x) => (float[N,6,8,8] y) { a = Conv(x, w, b) y = Concat <axis = 1> (a, x) }", **WEIGHTS
    )
    assert groups(graph) == [["x"], ["a"]]
    assert floats(graph) == {("Concat_0", 1)}


PASSING = {
    "MaxPool <kernel_shape = [2,2]> (c)": {},
    "Reshape(c, s)": {"s": np.int64([0, -1])},
    "Transpose <perm = [0,2,3,1]> (c)": {},
    "Flatten(c)": {},
    "Unsqueeze(c, s)": {"s": np.int64([0])},
    "Slice(c, s, e)": {"s": np.int64([0]), "e": np.int64([1])},
    "Gather(c, s)": {"s": np.int64([0])},
    "Resize(c, , s)": {"s": np.float32([1, 1, 2, 2])},
    "Pad(c, s)": {"s": np.int64([0, 0, 1, 1, 0, 0, 1, 1])},
    "Expand(c, s)": {"s": np.int64([2, 3, 8, 8])},
    "Tile(c, s)": {"s": np.int64([1, 2, 1, 1])},
    "Dropout(c)": {},
    "SpaceToDepth <blocksize = 2> (c)": {},
}


@pytest.mark.parametrize("op", PASSING)
def test_what_moves_numbers_shares_the_scale(quantized, op):
    text = "(float[N,3,8,8] x) => (float y) { c = Conv(x, w, b) y = " + op + "}"
    graph = quantized(text.replace("float y", "float[D] y"), **WEIGHTS, **PASSING[op])
    assert groups(graph) == [["x"], ["c", "y"]]
    assert graph.groups[1].roots == ["c"]
    assert graph.left_in_float == {}


def test_split_shares_with_all_its_outputs(quantized):
    graph = quantized(
        "(float[N,4,8,8] x) => (float[N,2,8,8] y, float[N,2,8,8] z) { c = Conv(x, w) y, z = Split <axis = 1> (c, s) }",
        w=(4, 4, 1, 1),
        s=np.int64([2, 2]),
    )
    assert groups(graph) == [["x"], ["c", "y", "z"]]


@pytest.mark.parametrize("op", ["Reshape(x, s)", "Transpose <perm = [0,1,2,3]> (x)"])
def test_what_moves_float_values_stays_in_float(quantized, op):
    graph = quantized(X + "{ f = " + op + " y = Conv(f, w, b) }", **WEIGHTS, s=np.int64([0, 0, 0, 0]))
    assert groups(graph) == [["f"], ["y"]]
    assert list(graph.left_in_float.values()) == ["moves float values"]


@pytest.mark.parametrize("op", ["AveragePool <kernel_shape = [2,2]> (c)", "GlobalAveragePool(c)"])
def test_averages_have_a_scale_of_their_own(quantized, op):
    graph = quantized("(float[N,3,8,8] x) => (float[N,3,H,H] y) { c = Conv(x, w, b) y = " + op + "}", **WEIGHTS)
    assert groups(graph) == [["x"], ["c"], ["y"]]


@pytest.mark.parametrize(("filling", "shared"), [(0.0, True), (5.0, False)])
def test_pad_shares_unless_it_fills_with_what_the_scale_may_not_hold(quantized, filling, shared):
    graph = quantized(
        "(float[N,3,8,8] x) => (float[N,3,9,9] y) { c = Conv(x, w, b) y = Pad(c, p, f) }",
        **WEIGHTS,
        p=np.int64([0, 0, 1, 1, 0, 0, 0, 0]),
        f=np.float32(filling),
    )
    assert groups(graph) == ([["x"], ["c", "y"]] if shared else [["x"], ["c"], ["y"]])
    constant = graph.edges.get(("Pad_0", 2))
    assert (constant is not None) is shared
    if constant is not None:
        assert constant.state.name == "PASSIVE_INIT"
        assert (constant.quant_min, constant.quant_max) == (0, 255)


def test_a_float_value_is_quantized_for_integer_readers_alone(quantized):
    graph = quantized(X + "{ f = Sigmoid(x) c = Conv(f, w, b) n = Neg(f) y = Mul(c, n) }", **WEIGHTS)
    assert groups(graph) == [["f"], ["c"]]
    assert floats(graph) == {("Neg_0", 0)}


def test_a_float_value_that_is_an_output_keeps_its_float_value(quantized):
    graph = quantized(
        "(float[N,3,8,8] x) => (float[N,3,8,8] f, float[N,3,8,8] y) { f = Sigmoid(x) y = Conv(f, w, b) }", **WEIGHTS
    )
    assert graph.config_of("f") is None
    assert graph.edges["Conv_0", 0] is graph.groups[0].config
    assert groups(graph) == [["f"], ["y"]]


def test_a_float_value_captured_by_a_branch_keeps_its_float_value(quantized):
    graph = quantized(
        """(float[N,3,8,8] x, bool sure) => (float[N,3,8,8] y) {
            f = Sigmoid(x)
            c = Conv(f, w, b)
            y = If (sure) <
                then_branch = t () => (float[N,3,8,8] a) { a = Add(f, c) },
                else_branch = e () => (float[N,3,8,8] d) { d = Neg(f) }
            >
        }""",
        **WEIGHTS,
    )
    assert groups(graph) == [["f"], ["c"]]
    assert graph.config_of("f") is None
    assert graph.edges["Conv_0", 0] is graph.groups[0].config
    assert graph.left_in_float["If_0"] == "what is inside it is left in float"


def test_an_output_of_an_integer_operator_is_the_dequantized_value(quantized):
    graph = quantized(X + "{ y = Conv(x, w, b) }", **WEIGHTS)
    assert graph.config_of("y") is graph.groups[1].config


def test_one_weight_read_twice_is_stored_once(quantized):
    graph = quantized(X + "{ c = Conv(x, w, b) y = Conv(c, w, b) }", **WEIGHTS)
    assert graph.edges["Conv_0", 1] is graph.edges["Conv_1", 1]
    assert graph.edges["Conv_0", 2] is not graph.edges["Conv_1", 2]  # another input scale


def test_a_grouped_conv_transpose_has_one_scale_for_its_weight_and_says_so(quantized):
    graph = quantized(
        "(float[N,4,8,8] x) => (float[N,4,8,8] y) { y = ConvTranspose <group = 2> (x, w, b) }", w=(4, 2, 1, 1), b=(4,)
    )
    assert not graph.edges["ConvTranspose_0", 1].is_per_channel
    assert not graph.edges["ConvTranspose_0", 2].is_per_channel
    assert "the weight of 'ConvTranspose_0' (ConvTranspose) is quantized per tensor" in graph.report


@pytest.mark.parametrize("dtype", ["double", "int32"])
def test_other_types_stay_in_float(quantized, dtype):
    kind = np.float64 if dtype == "double" else np.int32
    graph = quantized(f"({dtype}[N,4] x) => ({dtype}[N,4] y) {{ y = MatMul(x, w) }}", w=np.eye(4, dtype=kind))
    assert graph.groups == []
    if dtype == "double":
        assert "computes in double" in graph.left_in_float["MatMul_0"]


def test_operators_of_other_domains_stay_in_float(quantized):

    x, y = (helper.make_tensor_value_info(n, 1, [2, 2]) for n in "xy")
    proto = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"], domain="mine")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    graph = load_onnx_graph(helper.make_model(proto, opset_imports=opsets))
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME)
    assert graph.left_in_float == {"MatMul_0": "ONNXRUNTIME has no integer form of MatMul of domain mine"}


def test_a_second_quantization_forgets_the_first(quantized):

    text = "(float[N,4,8,8] x) => (float[N,4,8,8] y) { y = ConvTranspose <group = 2> (x, w, b) }"
    graph = quantized(text, w=(4, 2, 1, 1), b=(4,))
    report = list(graph.report)
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME)
    assert graph.report == report
    quantize_graph(graph, TargetPlatform.TRT_INT8)
    assert groups(graph) == [["x"]]
    assert graph.platform is TargetPlatform.TRT_INT8


def test_an_output_from_which_a_size_is_computed_has_no_config(quantized):
    text = """(float[1,3,2,2] x) => (float[N,3,8,8] y, float[A] z) {
        y = Conv(x, w, b) c = Conv(x, w, b) r = Relu(c) f = Flatten <axis = 0> (r) i = Cast <to = 7> (f)
        s = Squeeze(i, a) z = Expand(k, s)
    }"""
    graph = quantized(text, **WEIGHTS, a=np.int64([0]), k=(1,))
    assert groups(graph) == [["x"], ["y"]]
