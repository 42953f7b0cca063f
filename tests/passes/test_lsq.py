"""LearnedStepSizePass: scales, weights and biases trained towards the float model."""

import numpy as np
import pytest

from calibrant import QuantizationSetting, export_graph, load_onnx_graph
from calibrant.analysis import Simulation
from calibrant.api import quantize
from calibrant.core import SettingError
from calibrant.core import quantize as integers_of
from calibrant.passes.linear import linear_layers
from calibrant.passes.lsq import LearnedStepSizePass, blocks_of
from tests.passes.simulated import sqnr_of
from tests.runtime import opened

torch = pytest.importorskip("torch")


def setting(on=True, bits=4, **changes):
    made = QuantizationSetting()
    made.quantize_parameter_setting.num_of_bits = bits
    made.lsq_optimization = on
    made.lsq_optimization_setting.steps = 100
    for name, value in changes.items():
        setattr(made.lsq_optimization_setting, name, value)
    return made


@pytest.mark.parametrize("changes", [{}, {"block_size": 1}, {"is_scale_trainable": False}, {"gamma": 0.01}])
def test_it_is_better_on_samples_it_did_not_see(small_model, small_samples, changes):
    found = []
    for on in (False, True):
        graph, _ = quantize(small_model, small_samples[:32], setting=setting(on, **changes), threads=1)
        found.append(sqnr_of(graph, small_model, small_samples[32:]))
    assert found[1] > found[0] + 1.5


def test_what_is_exported_is_what_was_learned(small_model, small_samples, tmp_path):
    graph, _ = quantize(small_model, small_samples[:8], setting=setting(), threads=1)
    for layer in linear_layers(graph):
        values = graph.value(layer.weight_name).const_value.numpy()
        steps = np.asarray(layer.config.scale).reshape(-1, *[1] * (values.ndim - 1))
        np.testing.assert_allclose(values / steps, integers_of(values, layer.config), atol=0.02)
    export_graph(graph, "ONNXRUNTIME", tmp_path / "int8.onnx")
    session = opened(tmp_path / "int8.onnx")
    assert np.isfinite(session.run(None, {"x": small_samples[0]})[0]).all()


def test_scales_stay_where_they_are_not_to_be_learned(small_model, small_samples):
    scales = []
    for changes in ({"on": False}, {"is_scale_trainable": False}, {}):
        asked = setting(**changes)
        asked.exact_simulation = False
        graph, _ = quantize(small_model, small_samples[:8], setting=asked, threads=1)
        scales.append(np.array([graph.config_of(name).scale for name in ("r1", "r2", "sum")]))
    assert (scales[0] == scales[1]).all()
    assert (scales[0] != scales[2]).any()


def test_a_block_that_did_not_get_better_stays(small_model, small_samples, monkeypatch):
    errors = iter(range(100))
    monkeypatch.setattr("calibrant.passes.training.Trainer._error", lambda *_: float(next(errors)))
    plain, _ = quantize(small_model, small_samples[:8], setting=setting(False))
    graph, _ = quantize(small_model, small_samples[:8], setting=setting(), threads=1)
    for name in ("w1", "b1", "w2", "w3", "w4", "b4"):
        assert (graph.value(name).const_value.numpy() == plain.value(name).const_value.numpy()).all()


def test_it_can_be_stopped(small_model, small_samples, monkeypatch):
    errors = iter(range(100, 0, -1))
    monkeypatch.setattr("calibrant.passes.training.Trainer._error", lambda *_: float(next(errors)))
    asked = setting(block_size=1)
    asked.lsq_optimization_setting.steps = 5
    graph, _ = quantize(
        small_model, small_samples[:8], setting=asked, threads=1, on_layer=lambda name, done, total: done < 2
    )
    assert {"b1", "b2"} <= set(graph.changed_constants)
    assert not {"b3", "b4"} & set(graph.changed_constants)
    assert Simulation(graph).run({"x": small_samples[0]})[0].shape == (1, 5)


def test_the_same_again(small_model, small_samples):
    first, second = (quantize(small_model, small_samples[:8], setting=setting(), threads=1)[0] for _ in range(2))
    for name in ("w1", "b1", "w2", "w3", "w4", "b4"):
        assert (first.value(name).const_value.numpy() == second.value(name).const_value.numpy()).all()


def test_blocks_cover_the_graph(small_model, small_samples):
    graph, _ = quantize(small_model, small_samples[:8], setting=setting(False))
    nodes = [node.name for node in graph.model.graph]
    for size, count in ((1, 4), (2, 2), (3, 2), (9, 1)):
        blocks = blocks_of(graph, size)
        assert len(blocks) == count
        assert [node.name for block in blocks for node in block.nodes] == nodes
    first, second = blocks_of(graph, 2)
    assert (first.inputs, first.outputs) == (["x"], ["r1", "r2"])
    assert (second.inputs, second.outputs) == (["r2", "r1"], ["logits"])


def test_interested_layers(small_model, small_samples):
    asked = setting(block_size=1, interested_layers=["fc"])
    graph, _ = quantize(small_model, small_samples[:8], setting=asked, threads=1)
    assert "b1" not in graph.changed_constants


def test_numbers_out_of_range():
    with pytest.raises(SettingError, match=r"lsq_optimization_setting.steps must be at least 1, got 0"):
        LearnedStepSizePass(steps=0)


def test_without_torch_it_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"needs PyTorch.*calibrant\[torch\]"):
        LearnedStepSizePass()


def test_a_block_alone_is_what_the_whole_model_makes(small_model, small_samples):
    from calibrant import TorchExecutor

    graph, _ = quantize(small_model, small_samples[:8], setting=setting(False))
    executor = TorchExecutor(load_onnx_graph(small_model), "cpu")
    executor.load_graph(graph)
    sample = torch.from_numpy(small_samples[0])
    middle = executor.forward_quantized(sample, ["r1", "r2"])
    whole = executor.forward_quantized(sample)[0]
    block = executor.forward_block(dict(zip(["r1", "r2"], middle, strict=True)), ["logits"])[0]
    np.testing.assert_allclose(block.detach(), whole.detach(), atol=1e-5)
    config = graph.config_of("sum")
    wider = executor.forward_block({"r1": middle[0], "r2": middle[1]}, ["logits"], {}, {config: torch.tensor(9.0)})[0]
    assert (wider - whole).abs().max() > 0.1
