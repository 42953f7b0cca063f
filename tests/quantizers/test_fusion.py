"""Activations in several nodes are known by what they compute, however an exporter spells them."""

import numpy as np
import pytest

from tests.quantizers.placed import floats

F = np.float32
CONSTANTS = {
    "three": F(3),
    "six": F([6]),
    "zero": F(0),
    "one": F(1),
    "half": F(0.5),
    "two": F(2),
    "root2": F(np.sqrt(2)),
    "inv_root2": F(1 / np.sqrt(2)),
    "sixth": F(1 / 6),
    "cubic": F(0.044715),
    "root2pi": F(np.sqrt(2 / np.pi)),
}
SPELLINGS = {
    "SiLU": ["s = Sigmoid(c) y = Mul(c, s)", "s = Sigmoid(c) y = Mul(s, c)"],
    "HardSwish": [
        "a = Add(c, three) k = Clip(a, zero, six) m = Mul(c, k) y = Div(m, six)",
        "a = Add(three, c) k = Clip(a, zero, six) d = Div(k, six) y = Mul(d, c)",
        "a = Add(c, three) k = Clip(a, zero, six) m = Mul(k, sixth) y = Mul(c, m)",
        "h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (c) y = Mul(c, h)",
        "y = HardSwish(c)",
    ],
    "Gelu": [  # by erf, twice, and by tanh
        "d = Div(c, root2) e = Erf(d) p = Add(e, one) m = Mul(c, p) y = Mul(m, half)",
        "d = Mul(c, inv_root2) e = Erf(d) p = Add(one, e) h = Mul(c, half) y = Mul(h, p)",
        """q = Pow(c, three) r = Mul(q, cubic) s = Add(c, r) t = Mul(s, root2pi) u = Tanh(t)
        p = Add(u, one) m = Mul(c, p) y = Mul(m, half)""",
    ],
    "Mish": ["s = Softplus(c) t = Tanh(s) y = Mul(c, t)"],
}
ALL = [(name, text) for name, texts in SPELLINGS.items() for text in texts]
WEIGHTS = {"w": (3, 3, 1, 1)}
X = "(float[N,3,8,8] x) => (float[N,3,8,8] z) { c = Conv(x, w) %s z = Conv(y, w) }"


@pytest.mark.parametrize(("name", "text"), ALL)
def test_every_spelling_is_fused(quantized, name, text):
    graph = quantized(X % text, "OPENVINO_INT8", **WEIGHTS, **used(text))
    assert [g.values for g in graph.groups] == [["x"], ["y"]]
    assert graph.left_in_float == {}
    assert floats(graph) == set()


@pytest.mark.parametrize(("name", "text"), ALL)
def test_onnxruntime_fuses_none_of_them(quantized, name, text):
    graph = quantized(X % text, "ONNXRUNTIME", **WEIGHTS, **used(text))
    assert graph.config_of("c") is not None
    assert graph.config_of("y") is not None
    assert graph.left_in_float


@pytest.mark.parametrize(
    "text",
    [
        "s = Sigmoid(c) t = Mul(c, two) y = Mul(t, s)",  # 2 x sigmoid(x): nobody's kernel
        "a = Add(c, three) k = Clip(a, zero, three) m = Mul(c, k) y = Div(m, six)",  # clipped at 3
        "s = Sigmoid(c) y = Add(c, s)",
        "d = Div(c, two) e = Erf(d) p = Add(e, one) m = Mul(c, p) y = Mul(m, half)",  # not the root of 2
    ],
)
def test_what_only_looks_alike_is_not(quantized, text):
    graph = quantized(X % text, "TRT_INT8", **WEIGHTS, **used(text))
    assert graph.left_in_float


def test_a_part_that_others_read_keeps_the_group_open(quantized):
    text = """(float[N,3,8,8] x) => (float[N,3,8,8] z, float[N,3,8,8] q) {
        c = Conv(x, w) s = Sigmoid(c) y = Mul(c, s) z = Conv(y, w) q = Neg(s)
    }"""
    graph = quantized(text, "OPENVINO_INT8", **WEIGHTS)
    assert {"Sigmoid_0", "Mul_0"} <= set(graph.left_in_float)


def test_a_user_can_forbid_it_by_naming_any_of_its_nodes(quantized, setting):
    setting.leave_in_float = ["Sigmoid"]
    text = X % "s = Sigmoid(c) y = Mul(c, s)"
    graph = quantized(text, "TRT_INT8", setting, **WEIGHTS)
    assert {"Sigmoid_0", "Mul_0"} == set(graph.left_in_float)


def used(text: str) -> dict[str, np.ndarray]:
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return {name: value for name, value in CONSTANTS.items() if name in words}
