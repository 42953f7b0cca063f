"""Operators of the torch engine against onnxruntime, where ONNX's own tests do not look."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from calibrant import TorchExecutor


@pytest.fixture
def computed(parsed):
    """What both engines make of a model in ONNX's text form: torch's outputs, and onnxruntime's."""

    def compute(text, *arrays, by_torch=True):
        model = onnx.parser.parse_model(text)
        feed = dict(zip([value.name for value in model.graph.input], arrays, strict=True))
        executor = TorchExecutor(parsed(text), "cpu", threads=1)
        found = executor.forward(feed)
        assert bool(executor.report) != by_torch
        return found, ort.InferenceSession(model.SerializeToString()).run(None, feed)

    return compute


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [0.7, 0.9, 1.3, 2.3])
def test_the_size_that_resize_makes_is_a_product_in_float32(computed, scale, mode):
    assert int(10 * np.float64(np.float32(scale))) < round(10 * scale)  # the trap
    found, expected = computed(
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[1, 1, 10] x) => (float[1, 1, N] y)
        <float[3] scales = {{1.0, 1.0, {scale}}}>
        {{ y = Resize<mode = "{mode}", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
            (x, , scales) }}""",
        np.random.default_rng(0).normal(size=(1, 1, 10)).astype(np.float32),
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"])
@pytest.mark.parametrize("scale", [0.1, 0.3333333, 0.6, 1.1])
def test_the_nearest_element_is_found_in_float32(computed, scale, coordinates):
    found, expected = computed(
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[1, 1, 60] x) => (float[1, 1, N] y)
        <float[3] scales = {{1.0, 1.0, {scale}}}>
        {{ y = Resize<mode = "nearest", coordinate_transformation_mode = "{coordinates}", nearest_mode = "floor">
            (x, , scales) }}""",
        np.arange(60, dtype=np.float32).reshape(1, 1, 60),
    )
    assert found[0].tolist() == expected[0].tolist()


@pytest.mark.parametrize(
    "node",
    [
        "y = LayerNormalization<axis = 1>(x, scale)",
        "y = LRN<size = 3>(x)",
        "y = GlobalLpPool(x)",
        "y = LpPool<kernel_shape = [2, 2]>(x)",
        "y = ReduceL2<axes = [1]>(x)",
    ],
)
def test_squares_that_float16_does_not_hold(computed, node):
    x = np.float16(np.random.default_rng(0).normal(scale=1000, size=(2, 3, 4, 4)))
    with np.errstate(over="ignore"):
        assert np.isinf(x * x).any()  # the trap
    found, expected = computed(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float16[2, 3, 4, 4] x) => (float16[A, B, C, D] y)
        <float[1] one = {{1.0}}> {{ scale = Cast<to = 10>(one) {node} }}""",
        x,
    )
    assert found[0].dtype == np.float16
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-3, atol=2e-3)


def test_the_mean_that_a_normalization_of_float16_gives_out_is_float32(computed):
    found, expected = computed(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float16[2, 8] x) => (float16[2, 8] y, float[2, 1] mean, float[2, 1] inverse)
        <float[8] ones = {1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0}>
        { scale = Cast<to = 10>(ones) y, mean, inverse = LayerNormalization(x, scale) }""",
        np.float16(np.random.default_rng(0).normal(scale=1000, size=(2, 8))),
    )
    assert [array.dtype.name for array in found] == ["float16", "float32", "float32"]
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=2e-3, atol=2e-3)


def test_an_rms_normalization_of_large_float16(computed):
    found, expected = computed(
        """<ir_version: 10, opset_import: ["" : 23]> g (float16[2, 8] x) => (float16[2, 8] y)
        <float[1] one = {1.0}> { scale = Cast<to = 10>(one) y = RMSNormalization(x, scale) }""",
        np.float16(np.random.default_rng(0).normal(scale=1000, size=(2, 8))),
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-3, atol=2e-3)


OTHERS = {
    "y = Slice(x, start, end, axes, back)": np.float32([1, 2, 3]),
    "y = Shrink<bias = 1.0, lambd = 1.5>(x)": np.int64([-3, -1, 0, 2]),
    "y = Pow(x, half)": np.int64([5973, 5134, 5125]) ** 4,
    "y = DFT<axis = 1, inverse = 1>(x)": np.float32(np.arange(8).reshape(1, 4, 2)),
    "y = DFT<axis = 1, inverse = 1>(x, )": np.float32(np.arange(5).reshape(1, 5, 1)),
}


@pytest.mark.parametrize("node", OTHERS)
def test_other_corners(computed, node):
    x = OTHERS[node]
    kind = {"float32": "float", "int64": "int64"}[x.dtype.name]
    shape, free = ", ".join(map(str, x.shape)), ", ".join("ABC"[: x.ndim])
    found, expected = computed(
        f"""<ir_version: 8, opset_import: ["" : 17]> g ({kind}[{shape}] x) => ({kind}[{free}] y)
        <int64[1] start = {{-9}}, int64[1] end = {{-9}}, int64[1] axes = {{0}}, int64[1] back = {{-1}},
         float half = {{0.5}}>
        {{ {node} }}""",
        x,
    )
    assert found[0].dtype == x.dtype
    assert found[0].shape == expected[0].shape
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5 if kind == "float" else 0, atol=1e-6)


def test_a_grid_of_one_element_between_aligned_corners(computed):
    found, expected = computed(
        """<ir_version: 9, opset_import: ["" : 20]> g (float[1, 2, 3] theta) => (float[N, H, W, 2] grid)
        <int64[4] size = {1, 1, 1, 3}> { grid = AffineGrid<align_corners = 1>(theta, size) }""",
        np.float32([[[1, 2, 3], [4, 5, 6]]]),
        by_torch=False,
    )
    np.testing.assert_allclose(found[0], expected[0])
