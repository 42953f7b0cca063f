from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, shape_inference

from calibrant.graph import Graph, load_onnx_graph

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
RNG = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], inputs: dict[str, Any], outputs: list[str]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    return shape_inference.infer_shapes(made)


def ops(graph: Graph) -> list[str]:
    return [n.op_type for n in graph.model.graph]


BN = {"g": normal(6), "b": normal(6), "m": normal(6), "v": np.abs(normal(6)) + 0.1}
HEADS = {
    "Conv": ({"group": 2}, normal(6, 2, 3, 3), (2, 4, 8, 8)),
    "ConvTranspose": ({"group": 2}, normal(4, 3, 3, 3), (2, 4, 5, 5)),
    "Gemm": ({}, normal(4, 6), (3, 4)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("head", ["Conv", "ConvTranspose", "Gemm", "Gemm transB"])
def test_batch_normalization_folds_into_what_it_follows(loads_equal, head, bias):
    op_type = head.split()[0]
    attributes, weight, shape = HEADS[op_type]
    weights = BN | {"w": weight, **({"c": normal(6)} if bias else {})}
    if "transB" in head:
        attributes, weights["w"] = {"transB": 1}, weight.T
    nodes = [
        helper.make_node(op_type, ["x", "w", *(["c"] if bias else [])], ["h"], "head", **attributes),
        helper.make_node("BatchNormalization", ["h", *BN], ["y"], epsilon=1e-3),
    ]
    graph = loads_equal(model(nodes, weights, {"x": shape}, ["y"]), x=normal(*shape))
    assert ops(graph) == [op_type]
    assert graph.output_names == ["y"]
    assert f"1 BatchNormalization folded into {op_type}" in graph.report


AFFINE = {
    "Mul number": ("Mul", np.float32(1.7)),
    "Mul channel": ("Mul", normal(6, 1, 1)),
    "Mul [1,C,1,1]": ("Mul", normal(1, 6, 1, 1)),
    "Add [1]": ("Add", np.float32([0.4])),
    "Add channel": ("Add", normal(1, 6, 1, 1)),
    "Sub channel": ("Sub", normal(6, 1, 1)),
    "Div channel": ("Div", np.abs(normal(6, 1, 1)) + 0.5),
}


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.sampled_from(sorted(AFFINE)), min_size=1, max_size=4), swap=st.booleans(), bias=st.booleans())
def test_any_chain_of_affine_steps_folds_into_a_conv(loads_equal, steps, swap, bias):
    weights: dict[str, np.ndarray] = {"w": normal(6, 3, 3, 3)} | ({"c": normal(6)} if bias else {})
    nodes = [helper.make_node("Conv", ["x", *weights], ["v0"], auto_pad="SAME_UPPER")]
    for i, step in enumerate(steps):
        op_type, constant = AFFINE[step]
        weights[f"k{i}"] = constant
        inputs = [f"v{i}", f"k{i}"]
        if swap and op_type in ("Mul", "Add"):
            inputs.reverse()
        nodes.append(helper.make_node(op_type, inputs, [f"v{i + 1}"]))
    shape = (1, 3, 7, 7)
    graph = loads_equal(model(nodes, weights, {"x": shape}, [f"v{len(steps)}"]), 1e-3, x=normal(*shape))
    assert ops(graph) == ["Conv"]


@pytest.mark.parametrize(
    ("op_type", "inputs", "constant"),
    [
        ("Sub", ["k", "h"], normal(6, 1, 1)),  # k - x
        ("Div", ["k", "h"], normal(6, 1, 1)),  # k / x
        ("Add", ["h", "k"], normal(6)),  # along the width, which is 6 as well
        ("Mul", ["h", "k"], normal(1, 6, 1, 6)),  # not one number per channel
        ("Add", ["h", "k"], normal(1, 1, 6, 1, 1)),  # makes another rank
        ("Div", ["h", "k"], np.float32([1, 2, 3, 4, 5, 0]).reshape(6, 1, 1)),
        ("Mul", ["h", "k"], np.float32([np.inf])),
        ("Add", ["h", "h"], None),
    ],
)
def test_what_is_no_affine_step_per_channel_stays(loads_equal, op_type, inputs, constant):
    weights = {"w": normal(6, 3, 1, 1)} | ({} if constant is None else {"k": constant})
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node(op_type, inputs, ["y"])]
    graph = loads_equal(model(nodes, weights, {"x": (1, 3, 6, 6)}, ["y"]), x=np.abs(normal(1, 3, 6, 6)) + 1)
    assert ops(graph) == ["Conv", op_type]


@pytest.mark.parametrize("other", ["reader", "output"])
def test_a_step_that_is_not_the_only_reader_stays(loads_equal, other):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", *BN], ["y"]),
        helper.make_node("Relu", ["h" if other == "reader" else "y"], ["z"]),
    ]
    outputs = ["y", "z"] if other == "reader" else ["y", "z", "h"]
    graph = loads_equal(
        model(nodes, BN | {"w": normal(6, 3, 1, 1)}, {"x": (1, 3, 2, 2)}, outputs), x=normal(1, 3, 2, 2)
    )
    assert ops(graph) == ["Conv", "BatchNormalization", "Relu"]


def test_a_weight_with_two_readers_keeps_its_numbers_for_the_other(loads_equal):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", *BN], ["y"]),
        helper.make_node("Conv", ["x", "w"], ["z"]),
    ]
    graph = loads_equal(
        model(nodes, BN | {"w": normal(6, 3, 1, 1)}, {"x": (1, 3, 2, 2)}, ["y", "z"]), x=normal(1, 3, 2, 2)
    )
    assert ops(graph) == ["Conv", "Conv"]
    assert {"w", "w_folded"} <= {v.name for v in graph.values()}


def test_what_is_folded_into_keeps_its_name_and_a_new_bias_is_named_after_the_weight(loads_equal):
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["h"]),
        helper.make_node("BatchNormalization", ["h", *BN], ["y"]),
    ]
    graph = loads_equal(
        model(nodes, BN | {"a.weight": normal(6, 3, 1, 1)}, {"x": (1, 3, 2, 2)}, ["y"]), x=normal(1, 3, 2, 2)
    )
    assert [v.name for v in graph.model.graph[0].inputs] == ["x", "a.weight", "a.bias"]
    nodes[0].input.append("c")
    taken = helper.make_node("Relu", ["y"], ["a.bias"])
    weights = BN | {"a.weight": normal(6, 3, 1, 1)}
    graph = loads_equal(
        model([*nodes, taken], weights | {"c": normal(6)}, {"x": (1, 3, 2, 2)}, ["a.bias"]), x=normal(1, 3, 2, 2)
    )
    assert [v.name for v in graph.model.graph[0].inputs] == ["x", "a.weight", "c"]
    del nodes[0].input[2]
    graph = loads_equal(model([*nodes, taken], weights, {"x": (1, 3, 2, 2)}, ["a.bias"]), x=normal(1, 3, 2, 2))
    assert [v.name for v in graph.model.graph[0].inputs] == ["x", "a.weight", "a.bias_folded"]


def test_batch_normalization_alone_stays(loads_equal):
    node = helper.make_node("BatchNormalization", ["x", *BN], ["y"])
    graph = loads_equal(model([node], BN, {"x": (1, 6, 2, 2)}, ["y"]), x=normal(1, 6, 2, 2))
    assert ops(graph) == ["BatchNormalization"]


@pytest.mark.parametrize("bias", [normal(6), normal(1, 6), np.float32([2]), np.float32(2), normal(3, 1), None])
def test_gemm_gets_a_plain_weight_and_a_bias_per_column(loads_equal, bias):
    weights = {"w": normal(4, 6)} | ({} if bias is None else {"c": bias})
    node = helper.make_node("Gemm", ["x", *weights], ["y"], alpha=0.5, beta=2.0)
    graph = loads_equal(model([node], weights, {"x": (3, 4)}, ["y"]), x=normal(3, 4))
    column = bias is not None and bias.shape == (3, 1)
    left = {"alpha", "beta"} & set(graph.node("Gemm_0").attributes)
    assert left == ({"alpha", "beta"} if column else set())
    if bias is not None and not column:
        assert graph.shape_of(graph.input_of("Gemm_0", 2)) == [6]


def test_a_bias_per_row_is_not_taken_for_one_per_column(loads_equal):
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], beta=2.0)
    graph = loads_equal(model([node], {"w": normal(4, 6), "c": normal(6, 1)}, {"x": (6, 4)}, ["y"]), x=normal(6, 4))
    assert graph.shape_of("c") == [6, 1]


def test_constants_fold_and_leave_nothing_behind(loads_equal):
    weights = {"w": normal(6, 4), "two": np.float32(2)}
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Mul", ["t", "two"], ["t2"]),
        helper.make_node("MatMul", ["x", "t2"], ["y"]),
    ]
    graph = loads_equal(model(nodes, weights, {"x": (3, 4)}, ["y"]), x=normal(3, 4))
    assert ops(graph) == ["MatMul"]
    assert [v.name for v in graph.values() if graph.is_parameter(v.name)] == ["t2"]
    assert "2 nodes on constants folded" in graph.report


@pytest.mark.parametrize("shared", [True, False])
def test_folding_never_blows_the_model_up(loads_equal, shared):
    """A constant that others read as well would be stored twice; a small one repeated would become a large one."""
    weights = {"w": normal(64, 64), "times": np.int64([100, 1]), "row": normal(1, 64)}
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["a"]),
        helper.make_node("MatMul", ["a", "w" if shared else "t"], ["y"]),
        helper.make_node("Tile", ["row", "times"], ["tiled"]),
        helper.make_node("Add", ["y", "tiled"], ["z"]),
    ]
    source = model(nodes, weights, {"x": (100, 64)}, ["z"])
    graph = loads_equal(source, 1e-2, x=normal(100, 64))
    assert "Tile" in ops(graph)
    assert ("Transpose" in ops(graph)) is shared
    assert len(graph.to_bytes()) <= source.ByteSize() + 2048


def test_random_nodes_and_what_cannot_be_evaluated_stay():
    shape = {"s": np.int64([2])}
    nodes = [
        helper.make_node("RandomNormalLike", ["c"], ["r"]),
        helper.make_node("Nonsense", ["c"], ["n"], domain="com.example"),
        helper.make_node("Reshape", ["x", "s"], ["a"]),
        helper.make_node("Sum", ["a", "r", "n"], ["y"]),
    ]
    source = model(nodes, shape | {"c": normal(2)}, {"x": (2,)}, ["y"])
    assert ops(load_onnx_graph(source)) == ["RandomNormalLike", "Nonsense", "Reshape", "Sum"]


def test_identities_go_but_outputs_keep_their_names(loads_equal):
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
        helper.make_node("Identity", ["k"], ["k2"]),
    ]
    graph = loads_equal(model(nodes, {"k": normal(3)}, {"x": (3,)}, ["y", "b", "z", "k2"]), x=normal(3))
    assert ops(graph) == ["Relu", "Identity", "Identity", "Identity"]


def test_without_simplify_nothing_is_folded():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", *BN], ["b2"]),
        helper.make_node("Identity", ["b2"], ["i"]),
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Sum", ["i", "t"], ["y"]),
    ]
    source = model(nodes, BN | {"w": normal(6, 3, 1, 1)}, {"x": (1, 3, 2, 2)}, ["y"])
    assert ops(load_onnx_graph(source, simplify=False)) == [n.op_type for n in nodes]
