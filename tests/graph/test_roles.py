import numpy as np
import pytest
from onnx import numpy_helper, parser

from calibrant.graph import load_onnx_graph
from calibrant.graph.roles import MASK, MASKED, SHAPE, not_numbers


def roles(text: str, **constants: np.ndarray) -> dict[str, str]:
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>' + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    graph = load_onnx_graph(model, simplify=False)
    return {value.name: why for value, why in not_numbers(graph.model.graph).items()}


F = np.float32


def test_a_padding_mask_as_transformers_write_it():
    """(1 - cast(mask)) * finfo.min, added to the scores; behind the Softmax there are numbers again."""
    found = roles(
        """g (float[N,H,L,L] scores, int64[N,L] tokens) => (float[N,H,L,L] y) {
            m1 = Cast <to = 1> (tokens)
            m2 = Unsqueeze(m1, axes)
            m3 = Sub(one, m2)
            m4 = Mul(m3, lowest)
            s = Add(scores, m4)
            y = Softmax(s)
        }""",
        axes=np.int64([1, 2]),
        one=F(1),
        lowest=np.finfo(np.float32).min,
    )
    assert found["s"] == MASKED
    assert "y" not in found
    assert "scores" not in found


@pytest.mark.parametrize("huge", [np.finfo(np.float32).min, -np.inf, -1e9, -1e4])
def test_a_causal_mask_of_where(huge):
    found = roles(
        """g (float[N,L,L] scores, float[N,L] t) => (float[N,L,L] y, float[N,L,L] z) {
            b = Greater(t, zero)
            b3 = Unsqueeze(b, axes)
            w = Where(b3, zero, low)
            e = Expand(w, size)
            s = Add(scores, e)
            y = Softmax(s)
            z = Where(b3, scores, low)
        }""",
        zero=F(0),
        low=F(huge),
        axes=np.int64([1]),
        size=np.int64([1, 1, 1]),
    )
    assert found == {"w": MASK, "e": MASK, "s": MASKED, "z": MASKED}


def test_a_mask_stored_as_a_constant():
    causal = np.triu(np.full((4, 4), -1e4, np.float32), 1)
    found = roles("g (float[4,4] x) => (float[4,4] y) { s = Add(x, causal)  y = Softmax(s) }", causal=causal)
    assert found == {"s": MASKED}


def test_large_weights_are_no_mask():
    large = np.float32([[12000, -3], [2, 10001]])
    assert roles("g (float[4,2] x) => (float[4,2] y) { a = MatMul(x, w)  y = Add(a, w2) }", w=large, w2=large[:1]) == {}


def test_numbers_times_a_mask_are_numbers_and_so_is_a_harmless_where():
    found = roles(
        """g (float[N,L,4] x, bool[N,L,4] keep) => (float[N,L,4] y, float[N,L,4] z) {
            m = Cast <to = 1> (keep)
            y = Mul(x, m)
            z = Where(keep, x, zero)
        }""",
        zero=F(0),
    )
    assert found == {"m": MASK}


def test_float_arithmetic_on_shapes_is_no_number_and_the_data_is():
    found = roles(
        """g (float[N,C,H,W] x) => (float[N,C,H2,W2] y) {
            r = Relu(x)
            s = Shape(r)
            hw = Slice(s, two, four)
            f = Cast <to = 1> (hw)
            d = Mul(f, factor)
            i = Floor(d)
            o = Cast <to = 7> (i)
            nc = Slice(s, nil, two)
            size = Concat <axis = 0> (nc, o)
            y = Resize <mode = "nearest"> (r, , , size)
        }""",
        two=np.int64([2]),
        four=np.int64([4]),
        nil=np.int64([0]),
        factor=F([2.0]),
    )
    assert found == {"f": SHAPE, "d": SHAPE, "i": SHAPE}


def test_what_a_network_computes_stays_a_number_even_if_a_size_is_found_in_it():
    """Durations that a network predicts decide how long its output is; what predicts them is quantized as ever."""
    found = roles(
        """g (float[N,4] x) => (float[K,4] y, float[A,B] z) {
            a = Abs(x)
            h = MatMul(a, w)
            r = Round(h)
            size = Cast <to = 7> (r)
            top, index = TopK(a, k)
            y = Expand(x, size)
            z = Expand(x, index)
        }""",
        w=np.ones((4, 2), np.float32),
        k=np.int64([2]),
    )
    assert found == {"r": SHAPE}


def test_numbers_times_a_huge_mask_are_huge():
    found = roles(
        "g (float[2] x, bool[2] b) => (float[2] y) { m = Cast <to = 1> (b) h = Mul(m, low) y = Mul(x, h) }", low=F(-1e9)
    )
    assert found == {"m": MASK, "h": MASK, "y": MASKED}


def test_nan_in_a_constant_is_no_mask_and_hides_none():
    assert roles("g (float[2] x) => (float[2] y) { y = Add(x, c) }", c=F([np.nan, -1e38])) == {"y": MASKED}
    assert roles("g (float[2] x) => (float[2] y) { y = Add(x, c) }", c=F([np.nan, 1])) == {}


def test_padding_with_minus_infinity_before_a_pooling():
    found = roles(
        "g (float[1,1,4,4] x) => (float[1,1,4,4] y) { p = Pad(x, pads, low)  y = MaxPool <kernel_shape = [3,3]> (p) }",
        pads=np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
        low=F(-np.inf),
    )
    assert found == {"p": MASKED}
