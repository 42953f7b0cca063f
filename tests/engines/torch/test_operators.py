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

    def compute(text, *arrays):
        model = onnx.parser.parse_model(text)
        feed = dict(zip([value.name for value in model.graph.input], arrays, strict=True))
        executor = TorchExecutor(parsed(text), "cpu", threads=1)
        found = executor.forward(feed)
        assert not executor.report
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
