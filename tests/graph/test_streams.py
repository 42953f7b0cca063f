"""Which values can be scaled together, and that doing so changes nothing, for every operator on the way."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from calibrant.graph import load_onnx_graph
from calibrant.graph.rescaling import rescale
from calibrant.graph.streams import find_inserted, find_streams

RNG = np.random.default_rng(2)


def built(text, **weights):
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g ' + text)
    for name, shape in weights.items():
        array = RNG.normal(size=shape).astype(np.float32) if isinstance(shape, tuple) else shape
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return model


def image(body, **weights):
    return built("(float[N,3,8,8] x) => (float y) {" + body + "}", w1=(8, 3, 1, 1), **weights)


# What lies between two layers, and the values of the stream.
PASSED = [
    ("a = Conv(x, w1, b) r = Relu(a) y = Conv(r, w2)", {"b": (8,), "w2": (4, 8, 3, 3)}, "a r"),
    ("a = Conv(x, w1) r = LeakyRelu(a) y = Conv <group = 2> (r, w2)", {"w2": (4, 4, 3, 3)}, "a r"),
    ("a = Conv(x, w1) r = PRelu(a, s) y = ConvTranspose(r, w2)", {"s": (8, 1, 1), "w2": (8, 4, 3, 3)}, "a r"),
    (
        "a0 = Conv(x, w1) a = ConvTranspose <group = 2> (a0, wt) r = Relu(a) y = Conv <group = 6> (r, w2)",
        {"wt": (8, 3, 2, 2), "w2": (6, 1, 1, 1)},
        "a r",
    ),
    (
        "a = Conv(x, w1) r = MaxPool <kernel_shape=[2,2]> (a) q = AveragePool <kernel_shape=[2,2]> (r) y = Conv(q, w2)",
        {"w2": (4, 8, 1, 1)},
        "a r q",
    ),
    (
        "a = Conv(x, w1) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm <transB = 1> (f, w2, b)",
        {"w2": (5, 8), "b": (5,)},
        "a p f",
    ),
    ("a = Conv(x, w1) r = Relu(a) s = Add(r, c) y = Conv(s, w2)", {"c": (1, 8, 1, 1), "w2": (4, 8, 1, 1)}, "a r s"),
    (
        "a = Conv(x, w1) r = Relu(a) d = Conv <group = 8> (r, w2) s = Add(d, r) y = Conv(s, w3)",
        {"w2": (8, 1, 1, 1), "w3": (4, 8, 1, 1)},
        "a r d s",
    ),
]


@pytest.mark.parametrize(("body", "weights", "values"), PASSED)
def test_dividing_a_stream_changes_nothing(body, weights, values, tmp_path):
    graph = load_onnx_graph(image(body, **weights))
    feed = {"x": RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)}
    wanted, inside = (run(graph, feed, tmp_path, name) for name in ("y", values.split()[-1]))
    stream = next(s for s in find_streams(graph.model.graph) if s.values == tuple(values.split()))
    rescale(graph, {stream: np.exp2(RNG.integers(-3, 4, stream.channels).astype(np.float64))})
    assert np.array_equal(run(graph, feed, tmp_path), wanted)
    assert not np.array_equal(run(graph, feed, tmp_path, values.split()[-1]), inside)
    graph.undo_rescaling()
    assert np.array_equal(run(graph, feed, tmp_path, values.split()[-1]), inside)


def run(graph, feed, folder, value="y"):
    graph.save_float(folder / "g.onnx")
    model = onnx.load(folder / "g.onnx")
    if value != "y":
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(value))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run([value], feed)[0]


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("a = Conv(x, w1) r = Clip(a, lo, hi) y = Conv(r, w2)", {"lo": np.float32(-1), "hi": np.float32(6)}),
        ("a = Conv(x, w1) r = Clip(a, lo, hi) y = Conv(r, w2)", {"lo": np.float32(0), "hi": np.float32(0)}),
        ("a = Conv(x, w1) r = Clip(a, lo) y = Conv(r, w2)", {"lo": np.float32(0)}),
        ("a = Conv(x, w1) r = Sigmoid(a) y = Conv(r, w2)", {}),
        ("a = Conv(x, w1) r = Mul(a, a) y = Conv(r, w2)", {}),
        ("a = Conv(x, w1) r = Conv(a, w2) s = Add(a, c) t = Conv(s, w2) y = Add(r, t)", {"c": (1, 8, 8, 8)}),
    ],
)
def test_what_does_not_commute_is_in_no_stream(body, weights):
    graph = load_onnx_graph(image(body, w2=(4, 8, 1, 1), **weights))
    assert not any("a" in stream.values for stream in find_streams(graph.model.graph))


def test_a_clip_from_0_lets_the_stream_through_below_its_ceiling(tmp_path):
    body = "a = Conv(x, w1, b) r = Clip(a, lo, hi) y = Conv(r, w2)"
    ends = {"lo": np.float32(0), "hi": np.float32(6)}
    above = np.abs(RNG.normal(size=8)).astype(np.float32)  # so that no channel is cut off as a whole
    graph = load_onnx_graph(image(body, b=above, w2=(4, 8, 1, 1), **ends))
    (stream,) = find_streams(graph.model.graph)
    assert (stream.values, stream.ceilings, stream.activations) == (("a", "r"), (("r", 6.0),), True)
    feed = {"x": RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)}
    wanted, inside = run(graph, feed, tmp_path), run(graph, feed, tmp_path, "r").max(axis=(0, 2, 3))
    assert inside.min() > 0
    least = np.exp2(np.ceil(np.log2(inside / 6)))  # the channel's largest value comes up to the ceiling, no further
    rescale(graph, {stream: least})
    assert np.array_equal(run(graph, feed, tmp_path), wanted)
    rescale(graph, {stream: np.full(8, 0.25)})
    assert not np.array_equal(run(graph, feed, tmp_path), wanted)


def test_outputs_stay_as_they_are():
    text = "(float[N,3,8,8] x) => (float[N,8,8,8] a, float[N,4,8,8] y) { a = Conv(x, w1) y = Conv(a, w2) }"
    graph = load_onnx_graph(built(text, w1=(8, 3, 1, 1), w2=(4, 8, 1, 1)))
    assert find_streams(graph.model.graph) == []


def test_a_layer_normalization_that_products_alone_read_is_a_stream(tmp_path):
    text = """(float[N,5,6] x) => (float[N,5,4] y) {
        n = LayerNormalization(x, g, b)  p = MatMul(n, w1)  q = MatMul(n, w2)  y = Mul(p, q)
    }"""
    graph = load_onnx_graph(built(text, g=(6,), b=(6,), w1=(6, 4), w2=(6, 4)))
    (stream,) = find_streams(graph.model.graph)
    feed = {"x": RNG.normal(size=(2, 5, 6)).astype(np.float32)}
    wanted = run(graph, feed, tmp_path)
    rescale(graph, {stream: np.exp2(np.arange(6.0) - 3)})
    np.testing.assert_allclose(run(graph, feed, tmp_path), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("reader", "weight", "found"),
    [
        ("Conv <pads = [1,1,1,1]>", (4, 8, 3, 3), True),
        ("Conv", (4, 8, 1, 1), False),
        ("Conv <group = 8, pads = [1,1,1,1]>", (8, 1, 3, 3), False),
        ("ConvTranspose", (8, 4, 3, 3), False),
    ],
)
def test_a_mul_is_put_before_convolutions_that_outweigh_it(reader, weight, found, tmp_path):
    body = f"a = Conv(x, w1) r = Sigmoid(a) y = {reader} (r, w2)"
    graph = load_onnx_graph(image(body, w2=weight))
    last = [node.name for node in graph.model.graph][-1]
    streams = find_inserted(graph.model.graph, [last], sketched=False)
    assert [(s.values, s.channels, s.readers) for s in streams] == ([(("r",), 8, (last,))] if found else [])
    if found:
        feed = {"x": RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)}
        wanted = run(graph, feed, tmp_path)
        rescale(graph, {streams[0]: np.exp2(np.arange(8.0) - 4)})
        np.testing.assert_allclose(run(graph, feed, tmp_path), wanted, rtol=1e-5, atol=1e-6)
