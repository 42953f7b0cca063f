"""The float model as a session is given it."""

import numpy as np

from calibrant.engines.session import Runtime, run
from calibrant.engines.working import WorkingModel


def test_weights_are_given_apart(models, tmp_path):
    graph = models["convolutions"]((3, 40, 40))
    source, weights = WorkingModel(graph, tmp_path).exposing(["r1", "r2"])
    assert sorted(weights) == ["w1", "w2"]  # the biases are small
    assert len(source) < weights["w2"].nbytes
    session = Runtime.of(None, 1).open(source, weights=weights)
    (feed,) = models["images"]([(1, 3, 8, 8)])
    plain = Runtime.of(None, 1).open(graph.to_bytes())
    np.testing.assert_array_equal(run(session, ["r2"], feed)[0], run(plain, ["r2"], feed)[0])


def test_a_weight_that_is_an_output_stays_in_the_model(models, tmp_path):
    graph = models["convolutions"]((3, 40, 40))
    source, weights = WorkingModel(graph, tmp_path).exposing(["r2", "w1"])
    assert sorted(weights) == ["w2"]
    (feed,) = models["images"]([(1, 3, 8, 8)])
    session = Runtime.of(None, 1).open(source, weights=weights)
    np.testing.assert_array_equal(run(session, ["w1"], feed)[0], graph.value("w1").const_value.numpy())


def test_the_model_in_one_piece_needs_no_weights(models, tmp_path):
    graph = models["convolutions"]((3, 40, 40))
    (feed,) = models["images"]([(1, 3, 8, 8)])
    session = Runtime.of(None, 1).open(WorkingModel(graph, tmp_path).whole(["r1"]))
    assert run(session, ["r1"], feed)[0].shape == (1, 40, 8, 8)
