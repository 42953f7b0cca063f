"""The benchmark of accuracy: its measures on hand-made cases, and a peer in a process of its own."""

import argparse
import sys

import numpy as np
import onnx
import pytest

from benchmarks import peer_model
from benchmarks.accuracy import (
    LIMITED,
    Failed,
    Row,
    by_calibrant,
    by_peer,
    installed,
    interpreter,
    numbers,
    operations,
    python_of,
)
from benchmarks.peer_model import Reader, without_allowzero
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
    assert numbers("top-1", [{"top-1": 0.5}, {"top-1": 1.0}]) == "0.750 (0.500 .. 1.000)"
    assert numbers("SQNR, dB", [{"SQNR, dB": 17.04}]) == "17.0"
    assert numbers("top-1", Row("nobody", [], 0.0, []).measures) == ""


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


def test_what_a_peer_fails_with_is_told(tmp_path, small_samples):
    model = tmp_path / "m.onnx"
    onnx.save(small_classifier(), model)
    wrong = [{"no_input": sample} for sample in small_samples[:2]]
    with pytest.raises(Failed, match="no_input"):
        by_peer("onnxruntime-minmax", "small", model, wrong, tmp_path / "int8.onnx", sys.executable)


def test_of_a_long_error_the_first_line_is_told(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("what went wrong\nand what to read about it")

    monkeypatch.setitem(peer_model.PEERS, "ppq-default", fails)
    monkeypatch.setattr(sys, "argv", ["peer_model.py", "ppq-default", "model", "samples", "output"])
    with pytest.raises(SystemExit) as ended:
        peer_model.main()
    assert ended.value.code == "RuntimeError: what went wrong"


def test_a_peer_may_have_an_interpreter_of_its_own():
    here = sys.executable
    assert interpreter(f"quark={here}") == ("quark", here)
    assert python_of("quark-best", {"quark": "its/python", "": "other/python"}) == "its/python"
    assert python_of("neural-compressor-default", {"onnx-neural-compressor": "its/python"}) == here
    assert python_of("nncf-best", {"quark": "its/python", "": "other/python"}) == "other/python"
    with pytest.raises(argparse.ArgumentTypeError, match="no peer 'quarks'; there are onnxruntime, nncf"):
        interpreter(f"quarks={here}")
    with pytest.raises(argparse.ArgumentTypeError, match="no interpreter"):
        interpreter("quark=no/such/python")


def test_peers_without_an_environment_are_not_run_unless_named():
    assert "nncf-best" in installed({})
    assert "quark-best" not in installed({})
    assert {"quark-default", "quark-best"} <= set(installed({"quark": "its/python"}))


def test_samples_are_read_again_after_rewinding(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", x=np.full(2, number))
    reader = Reader(tmp_path)
    assert (len(reader), reader.get_first()["x"][0]) == (3, 0)
    first = [reader.get_next()["x"][0] for _ in range(3)]
    assert reader.get_next() is None
    reader.rewind()
    assert first == [feed["x"][0] for feed in reader] == [0, 1, 2]


def test_reshape_without_what_opset_14_added():
    nodes = [
        onnx.helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=0),
        onnx.helper.make_node("Flatten", ["y"], ["z"], axis=1),
    ]
    without = without_allowzero(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [])))
    assert [[attribute.name for attribute in node.attribute] for node in without.graph.node] == [[], ["axis"]]


def test_high_effort_with_few_operations_in_float(tmp_path, small_samples, monkeypatch):
    model, int8 = tmp_path / "m.onnx", tmp_path / "int8.onnx"
    onnx.save(small_classifier(), model)
    monkeypatch.setattr("benchmarks.accuracy.operations", lambda path: 20 * operations(path))
    _, notes = by_calibrant(LIMITED, model, list(small_samples[:8]), int8)
    count = operations(model)
    lost = int(notes[0].removeprefix(f"{LIMITED}: ").split()[0])
    assert notes[0].startswith(f"{LIMITED}: {lost} of {count} operations in float (")
    assert 0 < lost < count
