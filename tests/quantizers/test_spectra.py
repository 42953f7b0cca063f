"""A convolution of which only squares are used stays in float; one that is read otherwise as well does not."""

import numpy as np
import pytest

HEAD = "(float[1,3,9] x) => (float[1,M,K] y) { c = Conv(x, w) "
ONE = {"w": (4, 3, 3), "two": np.float32(2)}
SLICES = {"zero": np.int64([0]), "middle": np.int64([2]), "end": np.int64([4]), "axis": np.int64([1])}


def is_left(graph) -> bool:
    return "squares" in graph.left_in_float.get("Conv_0", "")


@pytest.mark.parametrize(
    "body",
    [
        "y = Pow(c, two) }",
        "y = Mul(c, c) }",
        "a = Slice(c, zero, middle, axis) b = Slice(c, middle, end, axis) p = Pow(a, two) q = Mul(b, b) y = Add(p, q)}",
        "f = Cast <to = 1> (c) y = Pow(f, two) }",
    ],
)
def test_a_spectrum(quantized, body):
    assert is_left(quantized(HEAD + body, **ONE, **SLICES))


@pytest.mark.parametrize(
    "body",
    [
        "y = Pow(c, three) }",
        "y = Mul(c, two) }",
        "p = Pow(c, two) y = Add(p, c) }",
        "r = Relu(c) y = Pow(r, two) }",
        "y = Identity(c) }",
    ],
)
def test_no_spectrum(quantized, body):
    assert not is_left(quantized(HEAD + body, three=np.float32(3), **ONE))
