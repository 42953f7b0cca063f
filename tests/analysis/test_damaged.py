"""A layer that INT8 breaks, though float does not show it, comes first: in `compare`, and on the report's page."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibrant import QuantizationSetting, export_graph
from calibrant.analysis import analyse, compare
from calibrant.analysis.report import Subject, collect
from calibrant.api import quantize
from tests.analysis.networks import plain_network

DEAD = 2  # the channel of `conv2` that its Relu makes zero


def network(changed):
    """The healthy network, with channel DEAD always zero behind `conv2`, and with some weights changed."""
    model = plain_network(damaged=False)
    weights = {one.name: numpy_helper.to_array(one).copy() for one in model.graph.initializer}
    weights["w2"][DEAD] = -np.abs(weights["w2"][DEAD])
    weights["b2"][DEAD] = -1.0
    changed(weights)
    for one in model.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(weights[one.name], one.name))
    return model


def nothing(weights):
    pass


def huge_where_nothing_comes(weights):
    weights["w3"][:, DEAD] *= 1000


def one_large_channel(weights):
    weights["w2"][5] *= 1000
    weights["b2"][5] *= 1000
    weights["w3"][:, 5] /= 50_000  # hardly read any more, so that it is not the weights of conv3 that fail


DAMAGED = [(huge_where_nothing_comes, "conv3"), (one_large_channel, "conv2")]


@pytest.fixture
def quantized(tmp_path, plain_samples):
    """A function: the paths of the network, changed so, and of its INT8 model; the graph and its summary."""

    def make(changed, setting=None):
        path, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
        onnx.save(network(changed), path)
        graph, summary = quantize(path, plain_samples, setting=setting, keep=True)
        export_graph(graph, "ONNXRUNTIME", int8)
        return path, int8, graph, summary

    return make


def first_of_report(graph, summary, samples=None):
    analysis = analyse(graph, samples, at_outputs=True) if samples else None
    return collect(Subject("m", summary.table.sketches, ["mse"], graph=graph, analysis=analysis)).suspects[0]


@pytest.mark.parametrize(("changed", "layer"), DAMAGED)
def test_int8_fails_with_what_is_default(changed, layer, quantized, plain_samples):
    for setting, fails in ((None, True), (QuantizationSetting(leave_in_float=["conv2", "conv3"]), False)):
        path, int8, *_ = quantized(changed, setting)
        (output,) = compare(path, int8, plain_samples, layers=False).outputs.values()
        assert (output.sqnr_db < 8) == fails


@pytest.mark.parametrize(("changed", "layer"), DAMAGED)
def test_compare_names_it(changed, layer, quantized, plain_samples):
    path, int8, *_ = quantized(changed)
    assert compare(path, int8, plain_samples).layers.worst[0].name == layer


@pytest.mark.parametrize(("changed", "layer"), DAMAGED)
def test_the_report_names_it(changed, layer, quantized, plain_samples):
    *_, graph, summary = quantized(changed)
    assert first_of_report(graph, summary, plain_samples).operation == layer


@pytest.mark.parametrize(("changed", "layer"), DAMAGED)
def test_a_report_without_samples_names_it(changed, layer, quantized):
    *_, graph, summary = quantized(changed)
    suspect = first_of_report(graph, summary)
    assert suspect.operation == layer
    assert suspect.decibels < 15
    assert any("makes use of" in fact for fact in suspect.facts)


def test_a_sound_layer_is_not_suspected_of_that(quantized):
    *_, graph, summary = quantized(nothing)
    suspect = first_of_report(graph, summary)
    assert suspect.decibels > 25
    assert not any("makes use of" in fact for fact in suspect.facts)
