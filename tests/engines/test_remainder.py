"""Remainder: the float model from a place on."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import OnnxruntimeExecutor, load_onnx_graph
from calibrant.api import quantize
from calibrant.engines.remainder import AS_IT_IS, Remainder, key_of
from calibrant.engines.stepping import Stepping


@pytest.mark.parametrize("place", range(9))
def test_from_every_place_on_it_gives_what_the_model_gives(small_model, small_samples, place):
    graph = load_onnx_graph(small_model)
    executor = OnnxruntimeExecutor(graph)
    feeds = [{"x": x} for x in small_samples[:2]]
    with Stepping(graph, feeds, False, 1) as stepping:
        nodes = list(graph.model.graph)
        for node in nodes[:place]:
            stepping.step(node)
        node = nodes[place]
        made = stepping.look_ahead(node)
        remainder = Remainder(graph, node, node.outputs[0])
        assert remainder.outputs == ["logits"]
        own = node.outputs[0].name, AS_IT_IS
        found = stepping.map(lambda i, kept: remainder.run(kept | {own: made[i]})[0], range(2))
    for feed, output in zip(feeds, found, strict=True):
        np.testing.assert_allclose(output, executor.forward(feed)[0], rtol=1e-4, atol=1e-5)


def test_values_are_taken_in_the_forms_in_which_they_are_read(small_model, small_samples):
    graph, _ = quantize(small_model, small_samples[:20])
    node = graph.node("conv1")
    remainder = Remainder(graph, graph.node("relu1"), graph.value("r1"))
    assert remainder.slots == [("r1", key_of(graph.config_of("r1")))]
    assert remainder.slots != [("r1", AS_IT_IS)]
    assert Remainder(graph, node, graph.value("c1")).slots == [("c1", AS_IT_IS)]


def test_a_reader_with_a_config_of_its_own_reads_a_form_of_its_own(small_model, small_samples):
    graph, _ = quantize(small_model, small_samples[:20])
    ours, own = graph.config_of("r1"), graph.config_of("r1").clone()
    graph.edges["conv2", 0] = own
    remainder = Remainder(graph, graph.node("relu1"), graph.value("r1"))
    assert set(remainder.slots) == {("r1", key_of(ours)), ("r1", key_of(own))}
    rng = np.random.default_rng(0)
    one, other = (rng.uniform(0, 2, (1, 8, 16, 16)).astype(np.float32) for _ in range(2))
    found = [
        remainder.run({("r1", key_of(ours)): a, ("r1", key_of(own)): b})[0]
        for a, b in ((one, one), (one, other), (other, one))
    ]
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[1], found[2])


def test_what_reaches_no_output_has_none(small_model):
    graph = load_onnx_graph(small_model)
    after = graph.node("fc")
    assert Remainder(graph, after, graph.value("r1")).outputs == []
    assert Remainder(graph, after, graph.value("r1")).run({}) == []
    assert Remainder(graph, after, graph.value("logits")).outputs == ["logits"]


def test_a_branch_reads_from_around_it(tmp_path):
    def branch(op):
        return helper.make_graph(
            [helper.make_node(op, ["h"], [f"{op}_out"])], op, [], [helper.make_tensor_value_info(f"{op}_out", 1, [2])]
        )

    nodes = [
        helper.make_node("Mul", ["x", "two"], ["h"], "double"),
        helper.make_node("If", ["flag"], ["y"], "choose", then_branch=branch("Neg"), else_branch=branch("Abs")),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [2]), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, [2])],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    loaded = load_onnx_graph(path)
    remainder = Remainder(loaded, loaded.node("double"), loaded.value("h"))
    assert sorted(remainder.slots) == [("flag", AS_IT_IS), ("h", AS_IT_IS)]
    found = remainder.run({("h", AS_IT_IS): np.float32([3, -4]), ("flag", AS_IT_IS): np.array(True)})
    assert found[0].tolist() == [-3, 4]
