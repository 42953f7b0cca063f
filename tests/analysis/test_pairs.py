"""What corresponds in two models: integer operators spelled out, names without suffixes, structure."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant.analysis.pairs.cutting import cut
from calibrant.analysis.pairs.expand import FORMS, expand_integer_operators
from calibrant.analysis.pairs.matching import match, stripped
from calibrant.analysis.pairs.view import View, read_pair
from tests.runtime import opened

X, Y = {"x": "x"}, {"y": "y"}


def model_of(nodes, weights=(), inputs=("x",), outputs=("y",), shape=("N", 8, 6, 6)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(model, feed):
    return opened(model.SerializeToString()).run(None, feed)


SCALES = {"xs": np.float32(0.03), "xz": np.uint8(128), "ys": np.float32(0.05), "yz": np.uint8(120)}
ONE = ["xq", "xs", "xz"]
TWO = [*ONE, *ONE]
ENDS = ["ys", "yz"]
RNG = np.random.default_rng(8)
WEIGHT = {"ws": RNG.uniform(0.01, 0.02, 8).astype(np.float32), "wz": np.zeros(8, np.int8)}
CONV = WEIGHT | {
    "wq": RNG.integers(-127, 128, (8, 8, 3, 3)).astype(np.int8),
    "bq": RNG.integers(-900, 900, 8).astype(np.int32),
}
DENSE = {
    "wq": RNG.integers(-127, 128, (6, 5)).astype(np.int8),
    "ws": RNG.uniform(0.01, 0.02, 5).astype(np.float32),
    "wz": np.zeros(5, np.int8),
    "bq": RNG.integers(-900, 900, 5).astype(np.int32),
}
ROW = {"wq": DENSE["wq"].T.copy(), "ws": DENSE["ws"], "wz": DENSE["wz"], "bq": DENSE["bq"]}
ORT = "com.microsoft"
INTEGER_NODES = {
    "QLinearConv": ("", [*ONE, "wq", "ws", "wz", *ENDS, "bq"], CONV, {"pads": [1, 1, 1, 1]}),
    "QLinearMatMul": ("", [*ONE, "wq", "ws", "wz", *ENDS], DENSE, {}),
    "QGemm": (ORT, [*ONE, "wq", "ws", "wz", "bq", *ENDS], ROW, {"transB": 1}),
    "QLinearAdd": (ORT, [*TWO, *ENDS], {}, {}),
    "QLinearMul": (ORT, [*TWO, *ENDS], {}, {}),
    "QLinearGlobalAveragePool": (ORT, [*ONE, *ENDS], {}, {}),
    "QLinearAveragePool": (ORT, [*ONE, *ENDS], {}, {"kernel_shape": [2, 2]}),
    "QLinearSigmoid": (ORT, [*ONE, *ENDS], {}, {}),
    "QLinearLeakyRelu": (ORT, [*ONE, *ENDS], {}, {"alpha": 0.1}),
    "QLinearSoftmax": (ORT, [*ONE, *ENDS], {}, {"axis": -1, "opset": 13}),
    "QLinearWhere": (ORT, ["mask", *ONE, *ONE, *ENDS], {"mask": np.array([True, False] * 3)}, {}),
    "QLinearConcat": (ORT, [*ENDS, *TWO], {}, {"axis": 1}),
}


def integer_model(op_type):
    domain, inputs, weights, attributes = INTEGER_NODES[op_type]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], "q"),
        helper.make_node(op_type, inputs, ["yq"], "op", domain=domain, **attributes),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"], "dq"),
    ]
    shape = ("N", 6) if op_type == "QGemm" else ("N", 8, 6, 6)
    return model_of(nodes, SCALES | weights, shape=shape)


@pytest.mark.parametrize("op_type", INTEGER_NODES)
def test_an_integer_operator_spelled_out_computes_the_same(op_type):
    assert INTEGER_NODES.keys() == FORMS.keys() | {"QLinearConcat"}
    model = integer_model(op_type)
    spelled = ir.serde.deserialize_model(model)
    assert expand_integer_operators(spelled) == 1
    types = [node.op_type for node in spelled.graph]
    assert op_type not in types
    x = np.random.default_rng(1).normal(0, 1.5, (2, 6) if op_type == "QGemm" else (2, 8, 6, 6)).astype(np.float32)
    (whole,) = run(model, {"x": x})
    (same,) = run(ir.serde.serialize_model(spelled), {"x": x})
    assert np.ptp(whole) > 0.05
    assert np.abs(whole - same).max() <= 0.0501  # a step, where a sum lies between two
    assert np.mean(whole != same) < 0.05


def test_what_cannot_be_spelled_stays():
    last = integer_model("QLinearGlobalAveragePool")
    last.graph.node[1].attribute.append(helper.make_attribute("channels_last", 1))
    old = integer_model("QLinearSoftmax")
    old.graph.node[1].attribute[1].i = 11
    for model in (last, old):
        assert expand_integer_operators(ir.serde.deserialize_model(model)) == 0


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("r1_QuantizeLinear_Input", "r1"),
        ("r1_DequantizeLinear_Output_2", "r1"),
        ("layer_1/conv_quantized_scale", "layer_1/conv_quantized_scale"),
        ("conv_3", "conv_3"),
        ("x_float_dequantized", "x"),
        ("_quant", "_quant"),
    ],
)
def test_what_tools_append_is_taken_off(name, bare):
    assert stripped(name) == bare


CONV_WEIGHTS = {"w": RNG.normal(size=(8, 8, 1, 1)).astype(np.float32), "v": RNG.normal(size=(8, 8, 1, 1)).astype("f4")}


def test_three_readers_of_one_value_keep_their_order():
    def attention(prefix):
        weights = {f"{prefix}{i}": RNG.normal(size=(6, 6)).astype(np.float32) for i in range(3)}
        made = [helper.make_node("MatMul", ["x", f"{prefix}{i}"], [f"{prefix}m{i}"]) for i in range(3)]
        total = helper.make_node("Sum", [f"{prefix}m{i}" for i in range(3)], ["y"])
        return View(ir.serde.deserialize_model(model_of([*made, total], weights)))

    pairs = match(attention("a"), attention("b"), X, Y)
    assert [(p.first.name, p.second.name) for p in pairs] == [
        ("x", "x"),
        *((f"am{i}", f"bm{i}") for i in range(3)),
        ("y", "y"),
    ]


def test_a_folded_batch_normalization_is_part_of_its_conv():
    ones = np.ones(8, np.float32)
    norm = {"s": ones, "b": ones, "m": ones, "var": ones}
    apart = [
        helper.make_node("Conv", ["x", "w"], ["c"], "first"),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "var"], ["n"], "norm"),
        helper.make_node("Conv", ["n", "v"], ["y"], "second"),
    ]
    folded = [helper.make_node("Conv", ["x", "w", "b"], ["t"]), helper.make_node("Conv", ["t", "v"], ["y"])]
    one = View(ir.serde.deserialize_model(model_of(apart, CONV_WEIGHTS | norm)))
    two = View(ir.serde.deserialize_model(model_of(folded, CONV_WEIGHTS | {"b": ones})))
    assert [(p.first.name, p.second.name) for p in match(one, two, X, Y)] == [("x", "x"), ("n", "t"), ("y", "y")]


def test_a_name_that_means_something_else_is_no_match():
    def stack(first, second):
        nodes = [
            helper.make_node("Conv", ["x", "w"], [first]),
            helper.make_node("Sigmoid", [first], [second]),
            helper.make_node("Conv", [second, "v"], ["y"]),
        ]
        return View(ir.serde.deserialize_model(model_of(nodes, CONV_WEIGHTS)))

    pairs = match(stack("1", "2"), stack("2", "1"), X, Y)
    assert [(p.first.name, p.second.name) for p in pairs] == [("x", "x"), ("1", "2"), ("2", "1"), ("y", "y")]


def test_a_body_s_values_come_along(tmp_path):
    """A value that only the branches of an If read is an input of the layer."""

    def branch(op_type):
        return helper.make_graph([helper.make_node(op_type, ["c"], ["out"])], op_type, [], [info("out")])

    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("ReduceMax", ["x"], ["top"], "top", keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["positive"], "is"),
        helper.make_node("If", ["positive"], ["i"], "choose", then_branch=branch("Relu"), else_branch=branch("Abs")),
        helper.make_node("Conv", ["i", "v"], ["y"], "last"),
    ]
    path = tmp_path / "if.onnx"
    onnx.save(model_of(nodes, CONV_WEIGHTS | {"zero": np.float32(0)}), path)
    one, two = read_pair(path, path)
    layers = cut(one, two, match(one, two, X, Y))
    last = layers[-1]
    assert last.name == "last"
    assert {value.name for value in last.first.reads} == {"x", "c"}
    x = np.random.default_rng(2).normal(size=(1, 8, 6, 6)).astype(np.float32)
    c = layers[0].first.run(dict.fromkeys(one.model.graph.inputs, x))
    (y,) = last.first.run(dict.fromkeys(one.model.graph.inputs, x) | c).values()
    assert y == pytest.approx(run(onnx.load(path), {"x": x})[0], abs=1e-4)
