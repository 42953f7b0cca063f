"""Transformers by default: MatMul and Gemm on integers; LayerNorm, Softmax, residuals and masks in float."""

import numpy as np
import pytest

F = np.float32
ENCODER = """(float[N,L,8] x, int64[N,L] tokens) => (float[N,L,8] y) {
    m = Cast <to = 1> (tokens)
    keep = Sub(one, m)
    low = Mul(keep, lowest)
    mask = Unsqueeze(low, axes)
    q1 = MatMul(x, wq)
    q = Add(q1, bq)
    k1 = MatMul(x, wk)
    kt = Transpose <perm = [0,2,1]> (k1)
    s = MatMul(q, kt)
    scaled = Div(s, root)
    masked = Add(scaled, mask)
    p = Softmax(masked)
    v = MatMul(x, wv)
    a = MatMul(p, v)
    o = MatMul(a, wo)
    r = Add(o, x)
    y = LayerNormalization(r, gamma, beta)
}"""
WEIGHTS = {
    **dict.fromkeys(("wq", "wk", "wv", "wo"), (8, 8)),
    **dict.fromkeys(("bq", "gamma", "beta"), (8,)),
    "one": F(1),
    "lowest": np.finfo(np.float32).min,
    "root": F(2.8),
    "axes": np.int64([1]),
}


@pytest.mark.parametrize("platform", ["ONNXRUNTIME", "TRT_INT8", "OPENVINO_INT8", "PPL_CUDA_INT8"])
def test_exactly_the_inputs_of_matmul_are_quantized(quantized, platform):
    graph = quantized(ENCODER, platform, **WEIGHTS)
    assert sorted(v for g in graph.groups for v in g.values) == sorted(["x", "q", "kt", "p", "v", "a"])
    assert all(len(g.values) == 1 for g in graph.groups)
    weights = {edge for edge, config in graph.edges.items() if config.is_per_channel}
    assert {graph.input_of(*edge) for edge in weights} == {"wq", "wk", "wv", "wo"}
    assert graph.edges["Add_2", 1].state.name == "FP32"  # the residual takes the float x
    assert {"LayerNormalization_0", "Softmax_0", "Add_0", "Add_1", "Add_2", "Div_0"} <= set(graph.left_in_float)


@pytest.mark.parametrize("platform", ["ONNXRUNTIME", "TRT_INT8", "OPENVINO_INT8", "PPL_CUDA_INT8"])
def test_nothing_on_the_mask_path_has_a_config(quantized, platform):
    graph = quantized(ENCODER, platform, **WEIGHTS)
    assert not any(graph.config_of(v) for v in ("m", "keep", "low", "mask", "masked", "scaled"))


def test_a_matmul_that_reads_a_mask_stays_in_float_and_says_why(quantized):
    text = """(bool[N,L] keep, float[N,L,L] x) => (float[N,L,L] y, float[N,L,L] z) {
        f = Cast <to = 1> (keep)
        row = Unsqueeze(f, a1)
        column = Unsqueeze(f, a2)
        both = MatMul(column, row)
        z = Mul(both, x)
        keep3 = Unsqueeze(keep, a1)
        w = Where(keep3, x, lowest)
        y = MatMul(w, x)
    }"""
    graph = quantized(text, a1=np.int64([1]), a2=np.int64([2]), lowest=F(-1e9))
    assert graph.groups == []
    assert graph.left_in_float["MatMul_0"] == "one of its inputs is a mask"
    assert graph.left_in_float["MatMul_1"].startswith("one of its inputs carries scores in which some are masked out")


def test_between_two_gemms_the_activation_is_float(quantized):
    text = "(float[N,8] x) => (float[N,8] y) { h = Gemm(x, w, b) t = Tanh(h) y = Gemm(t, w, b) }"
    graph = quantized(text, w=(8, 8), b=(8,))
    assert [g.values for g in graph.groups] == [["x"], ["h"], ["t"]]
    assert set(graph.left_in_float) == {"Tanh_0"}
