"""Layer by layer: the one that does the damage comes first, whatever tool quantized; the arithmetic is the model's."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant.analysis import compare
from calibrant.analysis.layers import LayerComparison
from calibrant.analysis.models import OpenPair
from calibrant.analysis.pairs.chain import Side
from tests.analysis.networks import TOOLS, plain_network

STATIC = [tool for tool in TOOLS if tool != "dynamic"]


def names(layers):
    return [layer.name for layer in layers]


@pytest.mark.parametrize("tool", STATIC)
def test_the_damaged_layer_comes_first(tool, networks, plain_samples):
    found = compare(networks["damaged"], networks[f"damaged {tool}"], plain_samples).layers
    worst = found.worst[0]
    assert worst.name == "conv2"
    assert worst.kind == "Conv+Relu"
    assert worst.restored_db > found.base_db + 5  # and it is the one to put back into float
    healthy = compare(networks["healthy"], networks[f"healthy {tool}"], plain_samples).layers
    assert healthy.base_db > found.base_db + 10  # INT8 did fail
    assert all(one.restored_db < healthy.base_db + 6 for one in healthy.worst if one.restored_db is not None)


def test_a_weight_that_was_damaged_afterwards(networks, plain_samples, tmp_path):
    model = onnx.load(networks["healthy calibrant"])
    scale = next(one for one in model.graph.initializer if one.name == "w3_scale")
    scale.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, tmp_path / "damaged.onnx")
    found = compare(networks["healthy"], tmp_path / "damaged.onnx", plain_samples[:4]).layers
    assert found.worst[0].name == "conv3"
    assert found.worst[0].own.sqnr_db < 0


@pytest.mark.parametrize("tool", TOOLS)
def test_every_layer_has_its_counterpart(tool, networks, plain_samples):
    found = compare(networks["healthy"], networks[f"healthy {tool}"], plain_samples[:2]).layers
    assert found.unmatched == []
    layers = ["conv1", "conv2", "conv3", "fc"]
    assert [name for name in names(found.layers) if name in layers] == layers
    assert all(20 < one.own.sqnr_db < 70 for one in found.layers if one.name in layers)


def test_values_are_those_behind_a_relu_that_was_folded_away(networks, plain_samples):
    assert "Relu" not in [node.op_type for node in onnx.load(networks["healthy qoperator"]).graph.node]
    found = compare(networks["healthy"], networks["healthy qoperator"], plain_samples[:1]).layers
    assert [one.value for one in found.layers][:4] == ["x", "r1", "r2", "c3"]


@pytest.mark.parametrize("tool", TOOLS)
def test_all_layers_switched_are_the_other_model(tool, networks, plain_samples):
    pair = OpenPair.open(networks["damaged"], networks[f"damaged {tool}"])
    comparison = LayerComparison(pair, ThreadPoolExecutor(2))
    feed = {"x": plain_samples[0]}
    comparison.take(feed)
    chain = comparison._chain
    exact, quantized = comparison._states(feed)
    (switched,) = chain.outputs(chain.switched(exact, Side.FIRST, chain.layers))
    np.testing.assert_array_equal(switched, chain.outputs(quantized)[0])
    (back,) = chain.outputs(chain.switched(quantized, Side.SECOND, chain.layers))
    np.testing.assert_array_equal(back, chain.outputs(exact)[0])
    assert np.abs(switched - back).max() > 0.01
    for path, found in ((networks["damaged"], back), (networks[f"damaged {tool}"], switched)):
        options = ort.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        whole = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        assert found == pytest.approx(
            whole, abs=0.02 * float(np.abs(whole).max())
        )  # a step of the output's scale, at most


def test_the_first_layer_inherits_nothing_and_the_last_is_the_output(networks, plain_samples):
    found = compare(networks["healthy"], networks["healthy calibrant"], plain_samples[:3]).layers
    first, last = found.layers[0], found.layers[-1]
    assert (first.name, first.kind) == ("x", "input")
    assert first.own == first.accumulated
    assert last.accumulated == found.simulated
    assert last.own == last.alone  # three samples, all of them kept: the same sums, in whatever order
    inherited = [one.accumulated.sqnr_db - one.own.sqnr_db for one in found.layers[1:]]
    assert max(inherited) < 1


def test_a_model_equals_itself(networks, plain_samples):
    found = compare(networks["healthy"], networks["healthy"], plain_samples[:2]).layers
    assert found.worst == []
    assert {one.own.noise for one in found.layers} == {0}


def test_the_order_of_the_samples_does_not_matter(networks, plain_samples):
    pair = networks["damaged"], networks["damaged qdq"]
    one = compare(*pair, plain_samples)
    other = compare(*pair, plain_samples[::-1])
    assert len(plain_samples) > one.layers.measured == 8
    assert names(one.layers.worst) == names(other.layers.worst)
    assert [layer.alone for layer in one.layers.layers] == [layer.alone for layer in other.layers.layers]
    assert [layer.restored_db for layer in one.layers.layers] == [layer.restored_db for layer in other.layers.layers]


def test_names_may_all_be_others(networks, plain_samples, tmp_path):
    renamed = tmp_path / "renamed.onnx"
    numbers = {}
    onnx.save(plain_network(names=lambda name: f"n{numbers.setdefault(name, len(numbers))}"), renamed)
    by_name = compare(networks["damaged"], networks["damaged qdq"], plain_samples[:2]).layers
    by_structure = compare(renamed, networks["damaged qdq"], plain_samples[:2]).layers
    assert by_structure.unmatched == []
    assert [one.alone for one in by_structure.layers] == [one.alone for one in by_name.layers]


def test_another_network_is_no_pair(networks, plain_samples, tmp_path):
    flat = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["m", "w"], ["y"]),
        ],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(np.ones((3, 6), np.float32), "w")],
    )
    other = helper.make_model(flat, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(other, tmp_path / "other.onnx")
    found = compare(networks["healthy"], tmp_path / "other.onnx", plain_samples[:2])
    assert found.outputs["y"].sqnr_db < 10
    assert {"conv1", "conv2", "conv3"} <= set(found.layers.unmatched)


def test_half_precision(networks, plain_samples, tmp_path):
    model = onnx.load(networks["healthy"])
    for one in model.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    found = compare(networks["healthy"], tmp_path / "half.onnx", plain_samples[:2])
    assert 40 < found.outputs["y"].sqnr_db < 90
    assert names(found.layers.layers) == ["conv1", "conv2", "conv3", "fc"]
    assert all(40 < one.own.sqnr_db < 90 for one in found.layers.layers)


def test_two_quantized_models(networks, plain_samples):
    found = compare(networks["healthy qdq"], networks["healthy calibrant"], plain_samples[:2])
    assert found.layers.unmatched == []
    assert "conv2" in names(found.layers.layers)
    assert [note for note in found.notes if "saturate" not in note] == []  # which some processors do


def test_a_layer_of_another_shape_is_part_of_the_next(networks, plain_samples, tmp_path):
    model = onnx.load(networks["healthy"])
    for one in model.graph.initializer:
        array = numpy_helper.to_array(one)
        if one.name in ("w1", "b1", "w2"):
            narrow = array[:, :4] if one.name == "w2" else array[:4]
            one.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(narrow), one.name))
    onnx.save(model, tmp_path / "narrow.onnx")
    found = compare(networks["healthy"], tmp_path / "narrow.onnx", plain_samples[:2]).layers
    assert names(found.layers) == ["conv2", "conv3", "fc"]
    assert found.unmatched == ["conv1"]
    assert found.worst[0].name == "conv2"


def test_outputs_that_are_no_floats(networks, plain_samples, tmp_path):
    paths = []
    for name in ("damaged", "damaged calibrant"):
        model = onnx.load(networks[name])
        model.graph.node.append(helper.make_node("ArgMax", ["y"], ["label"], "label", axis=1))
        model.graph.output.pop()
        model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, None))
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(model, paths[-1])
    found = compare(*paths, plain_samples)
    label = found.outputs["label"]
    assert (label.is_float, label.rows) == (False, 12)
    assert label.agreement < 0.5
    assert found.layers.worst[0].name == "conv2"  # measured at the last floats there are
