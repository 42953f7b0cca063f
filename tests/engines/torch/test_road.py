"""The whole road with the torch engine: the scales are those that the onnxruntime engine gives."""

from functools import partial

import numpy as np
import pytest

from calibrant import OnnxruntimeExecutor, TorchExecutor, calibrate, export_graph, load_onnx_graph
from calibrant.api import quantize
from calibrant.core import QuantizationProperty, TensorQuantizationConfig
from calibrant.observers import Distribution
from calibrant.observers.error import squared_error
from calibrant.observers.kernels import entropy
from calibrant.settings import QuantizationSetting
from demo import data, efficientnet_lite0
from tests.sketches.devices import on_gpu

DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]


def scales_of(model, samples, method, executor):
    graph = load_onnx_graph(model)
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = method
    graph, summary = quantize(graph, samples, setting=setting, executor=executor(graph))
    assert summary.notes == graph.report
    return {group.roots[0]: float(group.config.scale) for group in graph.groups}


def on_torch(graph, device="cpu"):
    return TorchExecutor(graph, device, threads=1)


def on_onnxruntime(graph):
    return OnnxruntimeExecutor(graph, threads=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_scales_of_both_engines(small_model, small_samples, method, device):
    mine, theirs = (
        scales_of(small_model, small_samples, method, engine)
        for engine in (partial(on_torch, device=device), on_onnxruntime)
    )
    assert mine.keys() == theirs.keys()
    for name, scale in mine.items():
        assert scale == pytest.approx(theirs[name], rel=5e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("symmetry", [QuantizationProperty.SYMMETRICAL, QuantizationProperty.ASYMMETRICAL])
def test_the_least_error_of_one_engine_is_that_of_the_other(small_model, small_samples, symmetry, device):
    """Scales may be far apart where errors are not: what counts is the error on the other engine's values."""
    graph = load_onnx_graph(small_model)
    mine, theirs = (
        calibrate(graph, small_samples, methods=["mse"], executor=engine)
        for engine in (on_torch(graph, device), on_onnxruntime(graph))
    )
    for name, sketch in theirs.sketches.items():
        errors = []
        for table in (mine, theirs):
            config = TensorQuantizationConfig(QuantizationProperty.PER_TENSOR | QuantizationProperty.LINEAR | symmetry)
            config.scale, config.offset = table.solve(name, method="mse", policy=config)
            errors.append(squared_error(config, sketch)[0])
        assert errors[0] <= 1.01 * errors[1], name


@pytest.mark.parametrize("device", DEVICES)
def test_the_least_divergence_of_one_engine_is_that_of_the_other(small_model, small_samples, device):
    graph = load_onnx_graph(small_model)
    mine, theirs = (
        calibrate(graph, small_samples, methods=["kl"], executor=engine)
        for engine in (on_torch(graph, device), on_onnxruntime(graph))
    )
    for name, sketch in theirs.sketches.items():
        found = Distribution.of(sketch.histogram, sketch.extremes)
        top, divergences = max(-found.lo, found.hi), []
        sums = entropy.make_sums(entropy.symmetric_counts(found.pos, found.neg, found.zeros, top))
        for table in (mine, theirs):
            config = TensorQuantizationConfig(
                QuantizationProperty.PER_TENSOR | QuantizationProperty.LINEAR | QuantizationProperty.SYMMETRICAL
            )
            scale, _ = table.solve(name, method="kl", policy=config)
            bins = round(float(scale) * 127.5 / top * entropy.BINS)
            divergences.append(entropy.divergence(sums, 0, min(bins, entropy.BINS), 128))
        assert divergences[0] <= 1.01 * divergences[1], name


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
