"""What a pass has spoilt is taken back: scales, constants, and the states of what depends on them."""

import numpy as np
import pytest

from calibrant.api import quantize
from calibrant.core import QuantizationStates
from calibrant.passes import pipeline
from calibrant.passes.activations import unsettle_dependents
from calibrant.passes.guard import relative_error
from calibrant.passes.optimization import OptimizationPass


class Moving(OptimizationPass):
    """Multiplies the scale of a value and a bias by the factor."""

    name = "Moving"

    def __init__(self, factor):
        self.factor = factor

    def layers(self, graph, samples, executor):
        config = graph.config_of("r1")
        config.scale = config.scale * np.float32(self.factor)
        bias = graph.value("b4").const_value.numpy()
        graph.change_constant("b4", bias * self.factor)
        unsettle_dependents(graph, {id(config)})
        yield 1, 1


def moved(model, samples, monkeypatch, factor):
    """The graph and its report with and without that pass at the end."""
    with monkeypatch.context() as patch:
        patch.setattr("calibrant.quantization.pipeline", lambda *args: [*pipeline(*args)[:-2], Moving(factor)])
        graph, summary = quantize(model, samples)
    return graph, [note for note in summary.notes if "worse on held-out samples" in note]


def test_what_makes_the_outputs_worse_is_taken_back(small_model, small_samples, monkeypatch):
    plain, _ = quantize(small_model, small_samples)
    graph, notes = moved(small_model, small_samples, monkeypatch, 0.2)
    assert notes == ["moving made the outputs worse on held-out samples: all is as it was before"]
    assert graph.config_of("r1").scale == pytest.approx(plain.config_of("r1").scale, rel=2e-3)
    assert (graph.value("b4").const_value.numpy() == plain.value("b4").const_value.numpy()).all()


def test_what_does_not_is_kept(small_model, small_samples, monkeypatch):
    plain, _ = quantize(small_model, small_samples)
    scale = float(plain.config_of("r1").scale)
    monkeypatch.setattr("calibrant.passes.guard.relative_error", lambda *_: 1.0)
    graph, notes = moved(small_model, small_samples, monkeypatch, 0.2)
    assert not notes
    assert graph.config_of("r1").scale == pytest.approx(scale * 0.2, rel=2e-3)
    assert graph.config_of("r1").state is QuantizationStates.ACTIVATED


def test_the_error_of_outputs_is_relative():
    wanted = [{"y": np.float32([3, 4]), "n": np.int64([1])}, {"y": np.float32([0, 0]), "n": np.int64([1])}]
    found = [{"y": np.float32([3, 5]), "n": np.int64([7])}, {"y": np.float32([2, 0]), "n": np.int64([1])}]
    assert relative_error(wanted, found) == pytest.approx(5 / 25)
    assert relative_error(wanted, wanted) == 0
