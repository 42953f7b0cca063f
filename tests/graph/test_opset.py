import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper, parser

from calibrant.core import ModelError
from calibrant.graph import load_onnx_graph
from calibrant.graph.opset import raise_opset

RNG = np.random.default_rng(3)


def old_model(opset: int) -> onnx.ModelProto:
    """Operators whose meaning or form changed with opset 13, subgraph and captured value included."""
    model = parser.parse_model(
        f"""<ir_version: 7, opset_import: ["" : {opset}]>"""
        """ g (float[2,3,4] x, bool cond) => (float[2,3,4] y, float[2,12] z) {
            s = Softmax <axis = 1> (x)
            u = Unsqueeze <axes = [0]> (s)
            q = Squeeze <axes = [0]> (u)
            a, b = Split <axis = 2, split = [1, 3]> (q)
            c = Concat <axis = 2> (b, a)
            r = ReduceSum <axes = [1], keepdims = 1> (c)
            y = If (cond) <
                then_branch = t () => (float[2,3,4] ty) { ty = Add(c, r) },
                else_branch = e () => (float[2,3,4] ey) { n = Neg(r)  ey = Mul(c, n) }
            >
            w = Reshape(c, shape)
            z = MatMul(w, weight)
        }"""
    )
    for name, array in (("shape", np.int64([2, 12])), ("weight", RNG.normal(size=(12, 12)).astype(np.float32))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("cond", [True, False])
def test_opsets_before_13_are_raised_and_compute_the_same(loads_equal, opset, cond):
    x = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    graph = loads_equal(old_model(opset), 1e-6, x=x, cond=np.array(cond))
    assert graph.opset == 13
    assert f"opset {opset} raised to 13: per-channel QuantizeLinear needs it" in graph.report


def test_13_and_newer_stay(loads_equal):
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 15]> g (float[2,3] x) => (float[2,3] y) { y = Softmax(x) }'
    )
    graph = loads_equal(model, x=np.float32([[1, 2, 3], [4, 5, 6]]))
    assert graph.opset == 15
    assert not any("opset" in line for line in graph.report)


def test_raising_to_21_keeps_names_and_weights_and_is_no_copy(run):
    graph = load_onnx_graph(old_model(12))
    x = {"x": RNG.normal(size=(2, 3, 4)).astype(np.float32), "cond": np.array(True)}
    before = run(graph.to_bytes(), **x)
    weight = graph.value("weight").const_value
    values = {v.name for v in graph.values()}
    assert raise_opset(graph, 21, "a test")
    assert not raise_opset(graph, 13, "a test")
    assert graph.opset == 21
    assert graph.model.ir_version >= 10
    assert graph.value("weight").const_value is weight
    assert values <= {v.name for v in graph.values()}
    assert all(n.name for n in graph.model.graph)
    for old, new in zip(before, run(graph.to_bytes(), **x), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_weights_above_the_limit_of_protobuf_are_never_serialized(run, tmp_path):
    """The converter takes one message below 2 GB; a weight that would not fit is kept out of it."""
    model = ir.from_proto(old_model(12))

    class Untouchable(ir.Tensor):
        def tobytes(self) -> bytes:
            raise AssertionError("the weight was serialized")

    graph = load_onnx_graph(old_model(12), simplify=False)
    value = graph.value("weight")
    value.const_value = Untouchable(RNG.normal(size=(300, 12)).astype(np.float32), name="weight")
    assert raise_opset(graph, 21, "a test")
    assert model.opset_imports[""] == 12


def test_what_the_converter_cannot_raise_says_so_and_leaves_the_model():
    node = helper.make_node("Upsample", ["x", "s"], ["y"], mode="nearest")
    x, y = (helper.make_tensor_value_info(n, 1, [1, 1, 2, 2]) for n in "xy")
    scales = numpy_helper.from_array(np.float32([1, 1, 1, 1]), "s")
    proto = helper.make_graph([node], "g", [x], [y], [scales])
    graph = load_onnx_graph(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 13)]), simplify=False)
    nodes = list(graph.model.graph)
    nodes[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"opset 13 must be raised to 21 \(a test\).*Export the model with opset 21"):
        raise_opset(graph, 21, "a test")
    assert list(graph.model.graph) == nodes
    assert graph.opset == 13


def test_the_nodes_before_no_longer_count_as_readers():
    graph = load_onnx_graph(old_model(12))
    raise_opset(graph, 21, "a test")
    alive = {n for g in graph.model.graphs() for n in g}
    assert {use.node for v in graph.values() for use in v.uses()} <= alive


@pytest.mark.parametrize(
    ("attributes", "same"), [({"axis": 1}, False), ({}, False), ({"axis": 2}, True), ({"axis": -1}, True)]
)
def test_a_hardmax_keeps_its_meaning_or_is_refused(run, attributes, same):
    x, y = (helper.make_tensor_value_info(name, 1, [2, 3, 4]) for name in "xy")
    proto = helper.make_graph([helper.make_node("Hardmax", ["x"], ["y"], name="most", **attributes)], "g", [x], [y])
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    feed = {"x": RNG.normal(size=(2, 3, 4)).astype(np.float32)}
    if same:
        expected = run(model.SerializeToString(), **feed)
        np.testing.assert_array_equal(run(load_onnx_graph(model).to_bytes(), **feed), expected)
    else:
        with pytest.raises(ModelError, match="Hardmax 'most' is not known to be over the last axis"):
            load_onnx_graph(model)
