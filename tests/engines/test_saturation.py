"""Whether integer sums are exact here, and what is said where they are not."""

import logging

import numpy as np
import pytest
from onnx import numpy_helper, parser

from calibrant import QuantizationSetting, TargetPlatform, export_graph, quantization
from calibrant.api import quantize
from calibrant.engines.saturation import sums_saturate
from tests.arrays import sqnr
from tests.runtime import opened


def convolution(weight, shape, group, exact):
    """What an integer convolution makes of the largest values, as a share of what it should."""
    rows, inputs = shape
    text = "(uint8[1,8,6,6] x) => (uint8[1,R,4,4] y) { y = QLinearConv <group = G> (x, one, xz, w, one, wz, most, xz) }"
    text = text.replace("R", str(rows)).replace("G", str(group))
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g ' + text)
    right = 9 * inputs * 255 * weight
    constants = {"one": np.float32(1), "xz": np.uint8(0), "wz": np.int8(0), "most": np.float32(right / 200)}
    constants["w"] = np.full((rows, inputs, 3, 3), weight, np.int8)
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    session = opened(model.SerializeToString(), x64quantprecision=str(int(exact)))
    return session.run(None, {"x": np.full((1, 8, 6, 6), 255, np.uint8)})[0] / 200


def test_it_says_what_a_convolution_does():
    share = convolution(127, (16, 8), 1, exact=False)
    assert (share < 0.6).all() if sums_saturate() else (share == 1).all()


@pytest.mark.parametrize(
    ("weight", "shape", "group", "exact"),
    [(127, (16, 8), 1, True), (64, (16, 8), 1, False), (127, (8, 1), 8, False)],
    ids=["the session option", "weights within 64", "depthwise"],
)
def test_what_is_exact_on_every_processor(weight, shape, group, exact):
    assert (convolution(weight, shape, group, exact) == 1).all()


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_a_warning_comes_where_it_matters(saturate, reduce_range, small_model, small_samples, monkeypatch, caplog):
    monkeypatch.setattr(quantization, "sums_saturate", lambda: saturate)
    setting = QuantizationSetting()
    setting.quantize_activation_setting.reduce_range = reduce_range
    with caplog.at_level(logging.WARNING):
        quantize(small_model, small_samples, setting=setting)
    said = [text for text in caplog.messages if "without VNNI" in text and "--reduce-range" in text]
    assert len(said) == (saturate and not reduce_range)


def test_reduce_range_gives_on_integer_kernels_what_the_model_describes(small_model, small_samples, tmp_path):
    """With onnxruntime's own options: those who run the model need not know."""
    setting = QuantizationSetting()
    setting.quantize_activation_setting.reduce_range = True
    graph, _ = quantize(small_model, small_samples, setting=setting)
    export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / "q.onnx")
    described, plain = opened(tmp_path / "q.onnx", optimized=False), opened(tmp_path / "q.onnx", x64quantprecision="0")
    runs = [np.concatenate([one.run(None, {"x": x})[0] for x in small_samples]) for one in (described, plain)]
    assert sqnr(*runs) > 40
