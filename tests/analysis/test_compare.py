"""compare: two models on the same samples."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from calibrant.analysis import Comparison, compare, sqnr_db
from calibrant.analysis.compare import _saturation
from calibrant.analysis.layers import LayerErrors
from calibrant.analysis.outputs import OutputDifference
from calibrant.api import export_graph, quantize
from calibrant.core import DataError, ModelError


@pytest.fixture
def quantized(small_model, small_samples, tmp_path):
    graph, _ = quantize(small_model, small_samples)
    export_graph(graph, "ONNXRUNTIME", tmp_path / "q.onnx")
    return tmp_path / "q.onnx"


def outputs(path, samples):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": sample})[0] for sample in samples])


def test_it_measures_what_the_outputs_say(small_model, quantized, small_samples):
    steps = []
    found = compare(small_model, quantized, small_samples[:12], on_step=steps.append)
    exact, other = (outputs(path, small_samples[:12]) for path in (small_model, quantized))
    logits = found.outputs["logits"]
    assert logits.sqnr_db == pytest.approx(sqnr_db(exact, other), abs=1e-3)
    assert logits.agreement == np.mean(exact.argmax(1) == other.argmax(1))
    assert logits.largest == pytest.approx(np.abs(exact - other).max(), rel=0.05)
    assert (found.samples, steps) == (12, list(range(1, 13)))
    assert found.size == (small_model.stat().st_size, quantized.stat().st_size)
    assert all(0 < time < 1000 for time in found.milliseconds)


def test_a_model_equals_itself(small_model, small_samples):
    logits = compare(small_model, small_model, small_samples[:2]).outputs["logits"]
    assert (logits.sqnr_db, logits.agreement, logits.largest) == (np.inf, 1.0, 0.0)


def rename(path, target, old, new):
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    onnx.save(model, target)
    return target


def test_outputs_of_other_names_go_by_their_order(small_model, quantized, small_samples, tmp_path):
    renamed = rename(quantized, tmp_path / "r.onnx", "logits", "scores")
    by_order = compare(small_model, renamed, small_samples[:3]).outputs["logits"]
    assert by_order == compare(small_model, quantized, small_samples[:3]).outputs["logits"]


def test_what_cannot_be_compared(small_model, small_samples, tmp_path):
    with pytest.raises(DataError, match=r"gone\.onnx: no such file"):
        compare(small_model, tmp_path / "gone.onnx", small_samples)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"onnxruntime cannot run .*text\.onnx"):
        compare(small_model, tmp_path / "text.onnx", small_samples)
    two = onnx.load(small_model)
    two.graph.input.append(helper.make_tensor_value_info("mask", 1, ["N"]))
    onnx.save(two, tmp_path / "two.onnx")
    with pytest.raises(ModelError, match="different inputs: x and x, mask"):
        compare(small_model, tmp_path / "two.onnx", small_samples)
    model = onnx.load(small_model)
    del model.graph.output[:]
    model.graph.node.append(helper.make_node("Flatten", ["sum"], ["logits2"]))
    model.graph.output.append(helper.make_tensor_value_info("logits2", 1, None))
    onnx.save(model, tmp_path / "shape.onnx")
    with pytest.raises(ModelError, match="output 'logits' is never of one shape"):
        compare(small_model, tmp_path / "shape.onnx", small_samples)
    with pytest.raises(DataError, match="rank 3"):
        compare(small_model, small_model, [np.zeros((3, 16, 16), np.float32)])


@pytest.mark.parametrize(("ran", "said"), [(0.1, ["20.0 dB where the model describes 26.0 dB"]), (0.06, []), (0.0, [])])
def test_where_sums_saturate_the_outputs_are_much_worse_than_described(ran, said):
    found = Comparison(outputs={"y": OutputDifference()}, layers=LayerErrors())
    found.outputs["y"].difference.add([1.0, -1.0], [1.0 + ran, -1.0 + ran])
    found.layers.simulated.add([1.0, -1.0], [1.05, -0.95])
    assert [words in note for words, note in zip(said, _saturation(found), strict=True)] == [True] * len(said)
    assert _saturation(replace(found, layers=None)) == []
