"""The benchmark of accuracy: its measures on hand-made cases, and a peer in a process of its own."""

import sys

import numpy as np
import onnx
import pytest

from benchmarks.accuracy import Failed, Row, _numbers, by_peer
from benchmarks.tasks import accepted_labels, linear_classifier, most_similar
from tests.conftest import small_classifier


def test_the_most_similar_has_the_least_angle():
    assert most_similar(np.array([[1.0, 0.0], [9.0, 1.0], [0.0, 1.0], [0.1, 2.0]])).tolist() == [1, 0, 3, 2]


def test_a_linear_classifier_tells_what_a_plane_separates():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5)) + 4
    labels = np.where(x[:, 1] > x[:, 2], "one", "other")
    told = linear_classifier(x[:60], labels[:60], x[60:])
    assert np.mean(told == labels[60:]) > 0.8
    shuffled = linear_classifier(x[:60], rng.permutation(labels[:60]), x[60:])
    assert np.mean(shuffled == labels[60:]) < 0.8


def test_several_labels_may_be_right(tmp_path):
    (tmp_path / "labels.csv").write_text("file,imagenet_index_accepted\na.jpg,3 5\n")
    assert accepted_labels(tmp_path) == [(tmp_path / "a.jpg", {3, 5})]


def test_of_several_splits_the_ends_are_told():
    assert _numbers("top-1", [{"top-1": 0.5}, {"top-1": 1.0}]) == "0.750 (0.500 .. 1.000)"
    assert _numbers("SQNR, dB", [{"SQNR, dB": 17.04}]) == "17.0"
    assert _numbers("top-1", Row("nobody", [], 0.0, []).measures) == ""


def test_a_peer_quantizes_in_a_process_of_its_own_or_says_why_not(tmp_path, small_samples):
    model, (good, bad) = tmp_path / "m.onnx", (tmp_path / "good", tmp_path / "bad")
    onnx.save(small_classifier(), model)
    good.mkdir()
    bad.mkdir()
    assert by_peer("onnxruntime-minmax", "small", model, small_samples[:2], good / "int8.onnx", sys.executable) > 0
    made = onnx.load(good / "int8.onnx")
    assert "QuantizeLinear" in {node.op_type for node in made.graph.node}
    with pytest.raises(Failed, match="FileNotFoundError"):
        by_peer("nncf-default", "small", model, small_samples[:2], bad / "int8.onnx", str(tmp_path / "no_python"))
