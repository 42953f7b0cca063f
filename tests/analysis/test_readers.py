"""reader_errors and Simulation: what quantization does to outputs, against numpy and onnxruntime."""

import numpy as np
import pytest

from calibrant import OnnxruntimeExecutor, load_onnx_graph
from calibrant.analysis import Simulation, reader_errors
from calibrant.api import export_graph, quantize
from calibrant.core import QuantizationProperty as P
from calibrant.core import StateError, TargetPlatform, TensorQuantizationConfig, fake_quantize
from calibrant.quantizers import quantize_graph
from tests.runtime import opened


def config(scale, offset=128):
    policy = P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL
    return TensorQuantizationConfig(policy, quant_min=0, quant_max=255, scale=scale, offset=offset)


@pytest.fixture
def planned(small_model):
    graph = load_onnx_graph(small_model)
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME)
    return graph


def test_the_error_is_that_of_the_conv_and_the_clip_behind_it(planned, small_samples):
    executor = OnnxruntimeExecutor(planned)
    samples = [{"x": sample} for sample in small_samples[:3]]
    fine, coarse = config(0.03), config(0.5)
    (errors,) = reader_errors(planned, executor, samples, [(["x"], [fine, coarse])])
    noise, power = np.zeros(2), 0.0
    for sample in samples:
        exact = executor.forward(sample, ["r1"])[0].astype(np.float64)
        power += (exact**2).sum()
        for i, each in enumerate((fine, coarse)):
            got = executor.forward({"x": fake_quantize(sample["x"], each).astype(np.float32)}, ["r1"])[0]
            noise[i] += ((exact - got) ** 2).sum()
    assert errors == pytest.approx(noise / power, rel=1e-3)
    assert errors[1] > 50 * errors[0]


def test_a_value_that_several_read_counts_for_each(planned, small_samples):
    executor = OnnxruntimeExecutor(planned)
    samples = [{"x": sample} for sample in small_samples[:2]]
    both = reader_errors(planned, executor, samples, [(["r1"], [config(0.05, 0)])])[0]
    seen = [executor.forward(sample, ["r1", "r2", "sum", "c3"]) for sample in samples]
    noise = power = 0.0
    for r1, r2, total, c3 in seen:
        quantized = fake_quantize(r1, config(0.05, 0)).astype(np.float32)
        power += (r2.astype(np.float64) ** 2).sum() + (total.astype(np.float64) ** 2).sum()
        noise += ((total - (c3 + quantized)).astype(np.float64) ** 2).sum()
    assert both[0] > noise / power > 0  # the Conv and Clip that read it as well add their share


def test_an_output_that_nothing_reads_counts_itself(planned, small_samples):
    sample = {"x": small_samples[0]}
    executor = OnnxruntimeExecutor(planned)
    (logits,) = executor.forward(sample)
    (error,) = reader_errors(planned, executor, [sample], [(["logits"], [config(0.1)])])
    expected = ((logits - fake_quantize(logits, config(0.1))) ** 2).sum() / (logits**2).sum()
    assert error[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("platform", ["ONNXRUNTIME", "TRT_INT8", "OPENVINO_INT8"])
def test_the_simulation_is_the_exported_model_with_optimizations_off(platform, small_model, small_samples, tmp_path):
    graph, _ = quantize(small_model, small_samples, platform=platform)
    export_graph(graph, platform, tmp_path / "q.onnx")
    written = opened(tmp_path / "q.onnx", optimized=False)
    simulation = Simulation(graph)
    floats = OnnxruntimeExecutor(graph)
    for sample in small_samples[:5]:
        found, expected = simulation.run({"x": sample})[0], written.run(None, {"x": sample})[0]
        assert found == pytest.approx(expected, abs=1e-4)
        assert np.abs(found - floats.forward({"x": sample})[0]).max() > 1e-3


def test_a_graph_without_scales_cannot_be_simulated(planned):
    with pytest.raises(StateError, match=r"the scale of \d activations is not found yet"):
        Simulation(planned)
