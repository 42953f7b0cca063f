"""Models that differ in what is in float: each is what its operations in float and its found scales say."""

import numpy as np
import pytest

from calibrant.analysis import Simulation
from calibrant.api import export_graph, quantize
from calibrant.precision import reaching
from calibrant.settings import QuantizationSetting
from tests.runtime import opened

from .conftest import PLATFORM, models_of


def equalizing():
    setting = QuantizationSetting()
    setting.equalization = True
    return setting


@pytest.fixture
def equalized(residual, photos):
    built, judge, executor = models_of(residual, photos, equalizing())
    assert built.graph.rescalings
    return built, judge, executor


def test_an_equalized_model_is_rebuilt_as_it_was(residual, photos, monkeypatch):
    """The model that has to reach a target is the one without a target, where it is built again."""
    plain, _ = quantize(residual, photos, setting=equalizing(), threads=1)
    wanted = [Simulation(plain, 1).run({"x": photo}) for photo in photos[:8]]
    monkeypatch.setattr(reaching.Search, "smallest", lambda search: search._trial(frozenset()))
    setting = equalizing()
    setting.target_sqnr = 100.0
    again, _ = quantize(residual, photos, setting=setting, threads=1)
    np.testing.assert_array_equal([Simulation(again, 1).run({"x": photo}) for photo in photos[:8]], wanted)


def test_what_is_in_float_computes_what_it_did_before_it_was_equalized(equalized):
    built, judge, executor = equalized
    exact = [executor.forward(feed) for feed in judge.choosing]
    built.build(frozenset(built.graph.operations))
    assert not built.graph.operations
    found = [Simulation(built.graph, 1).run(feed) for feed in judge.choosing]
    np.testing.assert_allclose(np.array(found), np.array(exact), rtol=1e-4, atol=1e-4)


def test_in_the_runtime_each_model_is_what_was_scored(models, tmp_path):
    """Each operation alone in float: onnxruntime, all its optimizations on, against the simulation."""
    built, judge, _ = models
    everything = list(built.graph.operations)
    for left in [frozenset(), *(frozenset({name}) for name in everything)]:
        built.build(left)
        export_graph(built.graph, PLATFORM, tmp_path / "q.onnx")
        session = opened(tmp_path / "q.onnx")
        simulation = Simulation(built.graph, 1)
        for feed in judge.choosing[:8]:
            found, wanted = session.run(None, feed)[0], simulation.run(feed)[0]
            np.testing.assert_allclose(found, wanted, atol=0.005 * np.abs(wanted).max(), err_msg=str(set(left)))
