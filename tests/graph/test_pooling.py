"""ReduceMean over the whole image, as the pool that it is."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference


def model(nodes, shape, opset=18, kind=TensorProto.FLOAT, **constants):
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return shape_inference.infer_shapes(made, data_prop=True)


def ops(graph):
    return [node.op_type for node in graph.model.graph]


X4 = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
X5 = np.random.default_rng(1).normal(size=(2, 3, 4, 5, 2)).astype(np.float32)


@pytest.mark.parametrize(("x", "axes"), [(X4, [2, 3]), (X4, [-1, -2]), (X5, [2, 3, 4])])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [13, 18])
def test_a_mean_over_the_image_is_a_pool(loads_equal, x, axes, keepdims, opset):
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], "mean", keepdims=keepdims)
    constants = {"axes": np.int64(axes)}
    if opset < 18:
        node = helper.make_node("ReduceMean", ["x"], ["y"], "mean", keepdims=keepdims, axes=axes)
        constants = {}
    graph = loads_equal(model([node], x.shape, opset, **constants), x=x)
    assert ops(graph) == ["GlobalAveragePool"] + ["Flatten"] * (1 - keepdims)
    assert graph.node("mean").op_type == "GlobalAveragePool"
    assert graph.report == ["1 ReduceMean over the whole image taken as GlobalAveragePool"]


@pytest.mark.parametrize(
    ("x", "axes", "attributes"),
    [
        (X4, [3], {}),
        (X4, [1, 2, 3], {}),
        (X4, [0, 2, 3], {}),
        (X4, [1, 2], {}),
        (X4[0], [2], {}),
        (X4, None, {}),
        (X4, [], {"noop_with_empty_axes": 1}),
        (X4.astype(np.float64), [2, 3], {}),
    ],
)
def test_other_means_stay(loads_equal, x, axes, attributes):
    inputs, constants = (["x"], {}) if axes is None else (["x", "axes"], {"axes": np.int64(axes)})
    kind = TensorProto.DOUBLE if x.dtype == np.float64 else TensorProto.FLOAT
    node = helper.make_node("ReduceMean", inputs, ["y"], **attributes)
    graph = loads_equal(model([node], x.shape, kind=kind, **constants), x=x)
    assert ops(graph) == ["ReduceMean"]


def test_the_mean_of_a_normalization_stays(loads_equal):
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    assert ops(loads_equal(model(nodes, X4.shape, axes=np.int64([2, 3])), x=X4)) == ["ReduceMean", "Sub"]


def test_axes_that_are_not_known_stay(loads_equal):
    proto = model([helper.make_node("ReduceMean", ["x", "axes"], ["y"])], X4.shape)
    proto.graph.input.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [2]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"]))
    assert ops(loads_equal(proto, x=X4, axes=np.int64([2, 3]))) == ["ReduceMean"]


def test_a_name_that_the_pool_would_have_is_left_to_who_has_it(loads_equal):
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["m"], "mean", keepdims=0)
    taken = helper.make_node("Neg", ["m"], ["m_pooled"], "neg")
    made = helper.make_node("Add", ["m", "m_pooled"], ["y"], "add")
    graph = loads_equal(model([mean, taken, made], X4.shape, axes=np.int64([2, 3])), x=X4)
    names = [value.name for node in graph.model.graph for value in node.outputs]
    assert len(set(names)) == len(names)
