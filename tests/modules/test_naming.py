"""Names after modules, on models with the notes that torch.onnx makes. No torch needed."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from calibrant.modules.naming import ORIGIN, SCOPES, Parameter, name_after_modules


def noted(text, notes, **weights):
    """A model of that text; notes: for each node, in order, its scopes and what torch's operator was given."""
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    for name, shape in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    proto = onnx.shape_inference.infer_shapes(proto)
    model = ir.serde.deserialize_model(proto)
    for node, (scopes, operands) in zip(model.graph, notes, strict=True):
        node.metadata_props[SCOPES] = repr(["", *scopes, "aten_op"])
        node.metadata_props[ORIGIN] = f"%op : call_function[target=torch.op](args = ({operands}), kwargs = {{}})"
    return model


def named(model, inputs=("x",), outputs=("output",), **parameters):
    known = {f"p_{name.replace('.', '_')}": Parameter(name, shape) for name, shape in parameters.items()}
    name_after_modules(model, inputs, outputs, known)
    onnx.checker.check_model(ir.serde.serialize_model(model))
    return [(n.name, n.op_type, [v.name for v in n.inputs], [v.name for v in n.outputs]) for n in model.graph]


def test_a_conv_is_named_after_its_weight_and_its_value_after_what_was_folded_into_it():
    model = noted(
        "(float[N,3,8,8] x) => (float[N,4,8,8] y) { c = Conv(x, w, w_bias) y = Relu(c) }",
        [(["layer1", "layer1.bn1"], "%conv, %p_layer1_bn1_weight"), (["layer1", "layer1.relu"], "%bn")],
        **{"w": (4, 3, 1, 1), "w_bias": 4},
    )
    model.graph.initializers["w"].name = "layer1.conv1.weight"
    found = named(model, **{"layer1.conv1.weight": (4, 3, 1, 1), "layer1.bn1.weight": (4,)})
    assert found == [
        ("layer1.conv1", "Conv", ["x", "layer1.conv1.weight", "layer1.conv1.bias"], ["layer1.bn1"]),
        ("layer1.relu", "Relu", ["layer1.bn1"], ["output"]),
    ]


def test_a_linear_of_two_nodes_gets_the_weight_s_name_back():
    model = noted(
        "(float[N,7,8] x) => (float[N,7,5] y) { m = MatMul(x, val_3) a = Add(m, b) y = Relu(a) }",
        [(["mlp", "mlp.0"], "%x, %p_mlp_0_weight, %p_mlp_0_bias")] * 2 + [(["mlp", "mlp.1"], "%linear")],
        **{"val_3": (8, 5), "b": 5},
    )
    model.graph.initializers["b"].name = "mlp.0.bias"
    assert named(model, **{"mlp.0.weight": (5, 8), "mlp.0.bias": (5,)}) == [
        ("mlp.0", "MatMul", ["x", "mlp.0.weight"], ["mlp.0.MatMul"]),
        ("mlp.0.Add", "Add", ["mlp.0.MatMul", "mlp.0.bias"], ["mlp.0"]),
        ("mlp.1", "Relu", ["mlp.0"], ["output"]),
    ]


def test_in_proj_weight_names_its_node_within_the_module():
    model = noted(
        "(float[N,7,8] x) => (float[N,7,9] y) { q = MatMul(x, val_3) y = Neg(q) }",
        [(["attn"], "%x, %p_attn_in_proj_weight")] * 2,
        val_3=(8, 9),
    )
    names = [row[0] for row in named(model, **{"attn.in_proj_weight": (9, 8)})]
    assert names == ["attn.in_proj", "attn"]


def test_a_module_that_runs_twice_and_functions_get_numbers():
    model = noted(
        "(float[N,8] x) => (float[N,8] y) { a = Relu(x) b = Add(a, x) c = Relu(b) d = Add(c, a) y = Exp(d) }",
        [
            (["block", "block.relu"], "%x"),
            (["block"], "%relu, %x"),
            (["block", "block.relu@1"], "%add"),
            (["block"], "%relu, %x"),
            ([], "%x"),
        ],
    )
    found = named(model)
    assert [row[0] for row in found] == ["block.relu", "block.Add", "block.relu_1", "block.Add_1", "Exp"]
    assert [row[3] for row in found] == [
        ["block.relu"], ["block.Add"], ["block.relu_1"], ["block.Add_1"], ["output"]
    ]  # fmt: skip


def test_names_of_inputs_outputs_and_parameters_come_first():
    model = noted(
        "(float[N,8] a) => (float[N,8] y) { b = Relu(a) c = Mul(b, s) y = Relu(c) }",
        [(["x"], "%a"), (["scale"], "%b"), (["output"], "%c")],
        s=8,
    )
    model.graph.initializers["s"].name = "scale"
    found = named(model, scale=(8,))
    assert [row[0] for row in found] == ["x", "scale", "output"]
    assert [row[3] for row in found] == [["x_1"], ["scale_1"], ["output"]]


def test_of_equal_weights_that_the_exporter_keeps_once_each_node_has_its_module_s_name():
    model = noted(
        "(float[N,4,5,5] x) => (float[N,4,5,5] y) { a = Conv(x, w) y = Conv(a, w) }",
        [(["one"], "%x, %p_one_weight"), (["two"], "%linear, %p_two_weight")],
        w=(4, 4, 1, 1),
    )
    model.graph.initializers["w"].name = "one.weight"
    shape = (4, 4, 1, 1)
    assert [row[0] for row in named(model, **{"one.weight": shape, "two.weight": shape})] == ["one", "two"]


def test_a_constant_is_a_weight_only_if_it_is_its_transpose():
    model = noted(
        "(float[N,8] x) => (float[N,5] y) { m = MatMul(x, val_1) y = MatMul(m, val_2) }",
        [(["a"], "%p_a_bias, %p_a_weight"), (["b"], "%x, %p_b_weight")],
        val_1=(8, 6),
        val_2=(6, 5),
    )
    found = named(model, **{"a.bias": (6,), "a.weight": (6, 8), "b.weight": (6, 5)})
    assert [row[2][1] for row in found] == ["a.weight", "val_2"]


def test_a_weight_that_is_there_both_ways_keeps_its_name_as_it_was():
    model = noted(
        "(int64[N] x) => (float[N,9] y) { e = Gather(w, x) y = MatMul(e, val_0) }",
        [(["wte"], "%p_wte_weight, %x"), (["head"], "%e, %p_wte_weight")],
        val_0=(8, 9),
        w=(9, 8),
    )
    model.graph.initializers["w"].name = "wte.weight"
    found = named(model, **{"wte.weight": (9, 8)})
    assert [row[2] for row in found] == [["wte.weight", "x"], ["wte", "wte.weight_1"]]


def test_a_product_with_another_module_s_weight_is_named_after_where_it_arose():
    model = noted(
        "(int64[N] x) => (float[N,9] y) { e = Gather(w, x) t = Transpose(w) y = MatMul(e, t) }",
        [(["wte"], "%p_wte_weight, %x"), (["head"], "%p_wte_weight"), (["head"], "%e, %p_wte_weight")],
        w=(9, 8),
    )
    model.graph.initializers["w"].name = "wte.weight"
    assert [row[0] for row in named(model, **{"wte.weight": (9, 8)})] == ["wte", "head.Transpose", "head"]


@pytest.mark.parametrize(
    "scopes", [None, "no list", "[]", "['only']", "['_empty_nn_module_stack_from_metadata_hook', 'x']"]
)
def test_without_notes_the_operator_is_the_name(scopes):
    model = noted("(float[N,8] x) => (float[N,8] y) { a = Relu(x) y = Relu(a) }", [([], "")] * 2)
    for node in model.graph:
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[SCOPES] = scopes
    assert [row[0] for row in named(model)] == ["Relu", "Relu_1"]
    assert model.graph[0].outputs[0].name == "Relu"


def test_several_outputs_of_a_node_and_the_names_in_a_body():
    model = noted(
        """(float[N,8] x, bool c) => (float[N,4] y) {
            a, b = Split <axis = 1, num_outputs = 2> (x)
            y = If (c) <
                then_branch = t () => (float[N,4] cut_1) { cut_1 = Add(a, b) },
                else_branch = e () => (float[N,4] other) { other = Sub(a, b) }>
        }""",
        [(["cut"], "%x"), ([], "%c")],
    )
    found = named(model, inputs=("x", "c"))
    assert found[0][3] == ["cut", "cut_2"]  # cut_1 is within the body
