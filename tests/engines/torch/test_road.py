"""The whole road with the torch engine: the scales are those that the onnxruntime engine gives."""

import numpy as np
import pytest

from calibrant import OnnxruntimeExecutor, TorchExecutor, calibrate, export_graph, load_onnx_graph
from calibrant.api import quantize
from calibrant.settings import QuantizationSetting
from demo import data, efficientnet_lite0


def scales_of(model, samples, method, executor):
    graph = load_onnx_graph(model)
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = method
    graph, summary = quantize(graph, samples, setting=setting, executor=executor(graph))
    assert summary.notes == graph.report
    return {group.roots[0]: float(group.config.scale) for group in graph.groups}


def on_torch(graph):
    return TorchExecutor(graph, "cpu", threads=1)


def on_onnxruntime(graph):
    return OnnxruntimeExecutor(graph, threads=1)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_scales_of_both_engines(small_model, small_samples, method):
    mine, theirs = (scales_of(small_model, small_samples, method, e) for e in (on_torch, on_onnxruntime))
    assert mine.keys() == theirs.keys()
    for name, scale in mine.items():
        assert scale == pytest.approx(theirs[name], rel=5e-3)


def test_a_model_that_is_quantized_with_it_is_exported(small_model, small_samples, tmp_path):
    graph = load_onnx_graph(small_model)
    graph, summary = quantize(graph, small_samples, executor=on_torch(graph))
    export_graph(graph, "ONNXRUNTIME", tmp_path / "small.int8.onnx")
    assert (tmp_path / "small.int8.onnx").exists()
    assert summary.samples == 40


def test_a_table_names_the_engine(small_model, small_samples):
    graph = load_onnx_graph(small_model)
    table = calibrate(graph, small_samples[:4], executor=on_torch(graph))
    assert table.engine.startswith("torch ")
    assert table.samples == 4


@pytest.mark.long
def test_efficientnet_lite0(tmp_path):
    try:
        checkpoint = efficientnet_lite0.installed_checkpoint()
        photos = data.calibration_photos()
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing}; `make test-all` installs it")
    model = tmp_path / "float.onnx"
    efficientnet_lite0.build(checkpoint, model)
    samples = list(data.calibration_samples(photos))[:16]
    graph = load_onnx_graph(model)
    mine, theirs = on_torch(graph).forward(samples[0])[0], on_onnxruntime(graph).forward(samples[0])[0]
    assert np.abs(mine - theirs).max() <= 1e-4 * np.abs(theirs).max()
    for method in ("minmax", "percentile"):
        found, expected = (scales_of(model, samples, method, e) for e in (on_torch, on_onnxruntime))
        for name, scale in found.items():
            assert scale == pytest.approx(expected[name], rel=5e-3)
