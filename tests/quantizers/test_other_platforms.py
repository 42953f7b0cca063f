"""The rules of TRT_INT8, OPENVINO_INT8 and PPL_CUDA_INT8 that ONNXRUNTIME does not have."""

import numpy as np
import pytest

from tests.quantizers.placed import floats, groups

WEIGHTS = {"w": (3, 3, 1, 1), "b": (3,)}
X = "(float[N,3,8,8] x) => (float[N,3,8,8] y)"
RESNET = """(float[N,3,8,8] x) => (float[N,3,8,8] y) {
    a = Conv(x, w, b) r = Relu(a) c = Conv(r, w, b) d = Conv(c, w, b) s = Add(d, r) t = Relu(s) y = Conv(t, w, b)
}"""
BOTH = pytest.mark.parametrize("platform", ["TRT_INT8", "OPENVINO_INT8"])


@BOTH
def test_outputs_are_quantized_only_where_an_integer_operator_reads_them(quantized, platform):
    graph = quantized(X + "{ a = Conv(x, w, b) r = Relu(a) y = Conv(r, w, b) }", platform, **WEIGHTS)
    assert groups(graph) == [["x"], ["r"]]


@BOTH
def test_float_readers_take_the_float_value(quantized, platform):
    graph = quantized(X + "{ a = Conv(x, w, b) f = Exp(a) c = Conv(a, w, b) y = Div(c, f) }", platform, **WEIGHTS)
    assert groups(graph) == [["x"], ["a"]]
    assert floats(graph) == {("Exp_0", 0)}


@BOTH
def test_an_output_that_is_read_by_integers_keeps_its_float_value(quantized, platform):
    text = "(float[N,3,8,8] x) => (float[N,3,8,8] a, float[N,3,8,8] y) { a = Conv(x, w, b) y = Conv(a, w, b) }"
    graph = quantized(text, platform, **WEIGHTS)
    assert groups(graph) == [["x"], ["a"]]
    assert graph.config_of("a") is None
    assert graph.edges["Conv_1", 0] is graph.groups[1].config


@BOTH
@pytest.mark.parametrize("read", [True, False])
def test_what_moves_numbers_counts_as_its_reader_does(quantized, platform, read):
    last = "y = Conv(p, w, b)" if read else "y = Exp(p)"
    text = X + "{ a = Conv(x, w, b) p = MaxPool <kernel_shape = [1,1]> (a) " + last + "}"
    graph = quantized(text, platform, **WEIGHTS)
    assert groups(graph) == ([["x"], ["a", "p"]] if read else [["x"]])
    assert graph.left_in_float.get("MaxPool_0") == (None if read else "its output is read in float alone")


def test_tensorrt_quantizes_the_residual_input_of_an_add_alone(quantized):
    """The Conv before the Add fuses with it when only what comes around is quantized."""
    graph = quantized(RESNET, "TRT_INT8", **WEIGHTS)
    assert groups(graph) == [["x"], ["r"], ["c"], ["t"]]
    two_convs = "{ a = Conv(x, w, b) c = Conv(x, w, b) s = Add(a, c) y = Conv(s, w, b) }"
    assert groups(quantized(X + two_convs, "TRT_INT8", **WEIGHTS)) == [["x"], ["a"], ["s"]]
    one_read = "{ a = Conv(x, w, b) c = Conv(x, w, b) s = Add(a, c) d = Conv(c, w, b) y = Mul(s, d) }"
    assert groups(quantized(X + one_read, "TRT_INT8", **WEIGHTS)) == [["x"], ["c"]]
    after_pool = (
        "{ a = Conv(x, w, b) p = MaxPool <kernel_shape = [1,1]> (a) c = Conv(x, w, b) s = Add(c, p) y = Conv(s, w, b) }"
    )
    assert groups(quantized(X + after_pool, "TRT_INT8", **WEIGHTS)) == [["x"], ["a", "p"], ["s"]]


def test_tensorrt_quantizes_the_residual_even_where_the_other_input_is_quantized_anyway(quantized):
    text = """(float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z) {
        a = Conv(x, w, b) p = AveragePool <kernel_shape = [1,1]> (a) c = Conv(x, w, b) z = Conv(c, w, b) y = Add(c, p)
    }"""
    assert groups(quantized(text, "TRT_INT8", **WEIGHTS)) == [["x"], ["a"], ["p"], ["c"]]


def test_openvino_quantizes_both_inputs_of_an_add(quantized):
    assert groups(quantized(RESNET, "OPENVINO_INT8", **WEIGHTS)) == [["x"], ["r"], ["c"], ["d"], ["t"]]


def test_openvino_multiplies_integers(quantized):
    text = X + "{ a = Conv(x, w, b) c = Conv(x, w, b) m = Mul(a, c) y = Conv(m, w, b) }"
    assert groups(quantized(text, "OPENVINO_INT8", **WEIGHTS)) == [["x"], ["a"], ["c"], ["m"]]


def test_ppl_cuda_levels_what_an_add_brings_together(quantized):
    graph = quantized(RESNET, "PPL_CUDA_INT8", **WEIGHTS)
    assert groups(graph) == [["x"], ["r", "d"], ["c"], ["t"], ["y"]]
    assert graph.groups[1].roots == ["r", "d"]


@pytest.mark.parametrize(
    ("op_type", "behind", "fused"),
    [
        ("Conv", "LeakyRelu(c)", True),
        ("Conv", "Sigmoid(c)", True),
        ("ConvTranspose", "LeakyRelu(c)", False),
        ("ConvTranspose", "Relu(c)", True),
        ("Conv", "Tanh(c)", False),
    ],
)
def test_ppl_cuda_fuses_more_behind_a_conv(quantized, op_type, behind, fused):
    graph = quantized(X + "{ c = " + op_type + "(x, w, b) y = " + behind + "}", "PPL_CUDA_INT8", **WEIGHTS)
    assert (graph.config_of("c") is None) is fused


def test_ppl_cuda_keeps_the_scale_through_a_clip_and_marks_its_limits(quantized):
    text = (
        "(float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z) { c = Conv(x, w, b) y = Clip(c, l, h) z = Exp(c) }"
    )
    graph = quantized(text, "PPL_CUDA_INT8", **WEIGHTS, l=np.float32(-1), h=np.float32(1))
    assert groups(graph) == [["x"], ["c", "y"]]
    assert [graph.edges["Clip_0", i].state.name for i in (1, 2)] == ["PASSIVE_INIT", "PASSIVE_INIT"]
