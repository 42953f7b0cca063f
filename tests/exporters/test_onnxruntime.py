"""The Q/DQ model for onnxruntime: what it computes, what it looks like, and what is refused."""

import json

import numpy as np
import onnx
import pytest

from calibrant import load_onnx_graph
from calibrant.core import (
    ExportError,
    QuantizationPolicy,
    QuantizationProperty,
    QuantizationStates,
    RoundingPolicy,
    StateError,
    TargetPlatform,
    fake_quantize,
)
from calibrant.exporters import EXPORTERS
from calibrant.graph import ScaleGroup
from calibrant.passes.parameter import ParameterQuantizePass
from calibrant.passes.passive import PassiveParameterQuantizePass

export = EXPORTERS[TargetPlatform.ONNXRUNTIME]

GRIDS = {
    "uint8": {},
    "int8": {"signed": True},
    "symmetric": {"symmetric": True},
    "narrow": {"symmetric": True, "quant_min": -127},
    "7 bits": {"bits": 7},
    "4 bits": {"bits": 4, "signed": True},
    "2 bits": {"bits": 2},
    "16 bits": {"bits": 16},
    "12 bits": {"bits": 12, "signed": True},
}


def off_by_more_than_a_step(one, other, step):
    """Share of values further apart than one step of the grid."""
    return np.mean(np.abs(np.asarray(one) - np.asarray(other)) > 1.01 * step)


@pytest.mark.parametrize("grid", GRIDS)
def test_simulation_is_the_numpy_simulation(grid, kit, small_graph, samples, tmp_path):
    graph = small_graph(lambda: kit.activation(**GRIDS[grid]))
    export(graph, tmp_path / "q.onnx")
    expected = [kit.every_value(graph, s, simulate=True)["logits"] for s in samples[:10]]
    got = kit.outputs(tmp_path / "q.onnx", samples[:10])
    step = graph.config_of("logits").scale
    assert np.mean(np.abs(np.subtract(got, expected)) > 0.01 * step) < 0.05  # a tie that float sums decide otherwise
    assert off_by_more_than_a_step(got, expected, step) == 0
    floats = [kit.every_value(graph, s)["logits"] for s in samples[:10]]
    assert np.abs(np.subtract(got, floats)).max() > 0.1 * step  # it is quantized at all


@pytest.mark.parametrize(
    ("grid", "int8_allowed"), [("uint8", False), ("7 bits", False), ("int8", True), ("symmetric", True)]
)
def test_integer_run_is_integer_and_agrees_with_the_simulation(grid, int8_allowed, kit, small_graph, samples, tmp_path):
    graph = small_graph(lambda: kit.activation(**GRIDS[grid]))
    export(graph, tmp_path / "q.onnx")
    kit.session(tmp_path / "q.onnx", True, tmp_path / "optimized.onnx", int8_allowed)
    ops = kit.op_types(tmp_path / "optimized.onnx")
    assert (ops["QLinearConv"], ops["QLinearAdd"], ops["QGemm"]) == (3, 1, 1), ops
    assert ops["Conv"] == ops["Relu"] == 0
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 1, ops  # of the input, and of the output
    simulated, integer = (kit.outputs(tmp_path / "q.onnx", samples, o, int8_allowed) for o in (False, True))
    step = graph.config_of("logits").scale
    assert off_by_more_than_a_step(integer, simulated, step) == 0
    assert np.mean(np.abs(np.subtract(integer, simulated)) > 0.01 * step) < 0.05


def test_what_the_file_holds(kit, small_graph, small_model, samples, tmp_path):
    graph = small_graph()
    graph.calibrated_samples = 40
    export(graph, tmp_path / "q.onnx", metadata={"setting": '{"a": 1}', "calibrant.batch": "2"})
    float_model, model = onnx.load(small_model), onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(model, full_check=True)
    for mine, theirs in ((model.graph.input, float_model.graph.input), (model.graph.output, float_model.graph.output)):
        assert list(mine) == list(theirs)
    assert {o.domain: o.version for o in model.opset_import} == {"": 17}
    ops = kit.op_types(tmp_path / "q.onnx")
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (8, 8 + 4 + 4)  # activations; weights and biases
    assert ops["Relu"] == ops["Clip"] == 0  # the uint8 grid of what they make implies them
    kinds = {t.name: onnx.helper.tensor_dtype_to_np_dtype(t.data_type).name for t in model.graph.initializer}
    assert all(kinds[f"w{i}_quantized"] == "int8" and kinds[f"b{i}_quantized"] == "int32" for i in range(1, 5))
    assert not {"w1", "b1", "zero", "six"} & set(kinds)  # nothing is kept that nothing reads
    meta = {p.key: p.value for p in model.metadata_props}
    assert meta["author"] == "us"
    assert meta["calibrant.platform"] == "ONNXRUNTIME"
    assert meta["calibrant.samples"] == "40"
    assert meta["calibrant.method"] == "minmax"
    assert meta["calibrant.fingerprint"] == graph.fingerprint
    assert json.loads(meta["calibrant.setting"]) == {"a": 1}
    assert meta["calibrant.batch"] == "2"
    assert meta["calibrant.version"]


def test_the_graph_is_not_changed_by_an_export(small_graph, tmp_path):
    graph = small_graph()
    before = graph.to_bytes()
    export(graph, tmp_path / "1.onnx")
    export(graph, tmp_path / "2.onnx")
    assert graph.to_bytes() == before
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


@pytest.mark.parametrize(("opset", "domain"), [(17, "com.microsoft"), (21, "")])
def test_16_bits_are_native_from_opset_21(opset, domain, kit, tmp_path):
    w = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    model = kit.model_of([kit.node("MatMul", ["x", "w"], ["y"], "mm")], {"w": w}, {"x": [2, 4]}, {"y": [2, 3]}, opset)
    samples = [{"x": np.random.default_rng(i).normal(size=(2, 4)).astype(np.float32)} for i in range(4)]
    values = {"x": kit.activation(bits=16), "y": kit.activation(bits=16, signed=True)}
    graph = kit.quantized(model, values, {("mm", 1): kit.weight(1, bits=16)}, samples)
    export(graph, tmp_path / "q.onnx")
    nodes = [n for n in onnx.load(tmp_path / "q.onnx").graph.node if n.op_type.endswith("Linear")]
    assert {n.domain for n in nodes} == {domain}
    expected = [kit.every_value(graph, s, simulate=True)["y"] for s in samples]
    np.testing.assert_allclose(kit.outputs(tmp_path / "q.onnx", samples), expected, atol=1.01 * values["y"].scale)


def test_scales_per_channel_of_an_activation(kit, tmp_path):
    model = kit.model_of([kit.node("Relu", ["x"], ["y"], "relu")], {}, {"x": [2, 3, 4]}, {"y": [2, 3, 4]})
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32) * np.float32([[[1], [10], [100]]])
    graph = kit.quantized(
        model, {"x": kit.activation(channel_axis=-2), "y": kit.activation(channel_axis=1)}, {}, [{"x": x}]
    )
    export(graph, tmp_path / "q.onnx")
    np.testing.assert_array_equal(
        kit.outputs(tmp_path / "q.onnx", [{"x": x}])[0], kit.every_value(graph, {"x": x}, simulate=True)["y"]
    )
    pairs = [n for n in onnx.load(tmp_path / "q.onnx").graph.node if n.op_type.endswith("Linear")]
    assert [a.i for n in pairs for a in n.attribute if a.name == "axis"] == [1] * 4  # not every runtime takes -2


def two_readers(kit, values, edges):
    """x -> Relu -> r; one = r * a, two = r * b, out = one + two + r."""
    nodes = [
        kit.node("Relu", ["x"], ["r"], "relu"),
        kit.node("Mul", ["r", "a"], ["one"], "mul1"),
        kit.node("Mul", ["r", "b"], ["two"], "mul2"),
        kit.node("Sum", ["one", "two", "r"], ["out"], "sum"),
    ]
    constants = {"a": np.float32([1.5]), "b": np.float32([-0.7])}
    model = kit.model_of(nodes, constants, {"x": [64]}, {"out": [64], "r": [64]})
    x = np.random.default_rng(1).normal(size=64).astype(np.float32)
    return kit.quantized(model, values, edges, [{"x": x}]), x


def check_both_outputs(kit, graph, x, path):
    export(graph, path)
    expected = kit.every_value(graph, {"x": x}, simulate=True)
    out, r = kit.session(path, False).run(None, {"x": x})
    np.testing.assert_allclose(r, expected["r"], atol=1e-6)
    np.testing.assert_allclose(out, expected["out"], atol=1e-6)
    return kit.op_types(path)


def test_readers_with_a_float_edge_or_a_config_of_their_own(kit, tmp_path):
    coarse, own = kit.activation(bits=2), kit.activation(bits=4)
    edges = {("mul1", 0): kit.in_float(), ("mul2", 0): own, ("sum", 2): own}
    graph, x = two_readers(kit, {"r": coarse}, edges)
    ops = check_both_outputs(kit, graph, x, tmp_path / "q.onnx")
    assert ops["QuantizeLinear"] == 2  # one for the output r, one that both readers of `own` share
    assert ops["Relu"] == 1  # it stays: somebody reads the float value


def test_a_graph_output_is_the_dequantized_value_and_keeps_its_name(kit, tmp_path):
    graph, x = two_readers(kit, {"r": kit.activation(bits=4)}, {})
    ops = check_both_outputs(kit, graph, x, tmp_path / "q.onnx")
    assert (ops["QuantizeLinear"], ops["Relu"]) == (1, 0)
    assert [o.name for o in onnx.load(tmp_path / "q.onnx").graph.output] == ["out", "r"]


def test_an_output_of_which_only_readers_have_a_grid_keeps_its_float_value(kit, tmp_path):
    own = kit.activation(bits=4)
    graph, x = two_readers(kit, {}, {("mul1", 0): own})
    graph.groups = [ScaleGroup(own, ["r"], ["r"])]  # as the quantizer leaves a float value that a Conv reads
    assert check_both_outputs(kit, graph, x, tmp_path / "q.onnx")["QuantizeLinear"] == 1
    assert kit.session(tmp_path / "q.onnx", False).run(["r"], {"x": x})[0].tolist() == np.maximum(x, 0).tolist()


def test_an_overlapped_edge_reads_what_the_value_has(kit, tmp_path):
    covered = kit.activation(bits=2, state=QuantizationStates.OVERLAPPED)
    graph, x = two_readers(kit, {"r": kit.activation(bits=4)}, {("mul1", 0): covered})
    assert check_both_outputs(kit, graph, x, tmp_path / "q.onnx")["QuantizeLinear"] == 1


def test_an_initializer_read_along_two_axes(kit, tmp_path):
    w = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32) * np.float32([1, 10, 100, 1000])
    nodes = [
        kit.node("MatMul", ["x", "w"], ["a"], "mm"),
        kit.node("Gemm", ["a", "w"], ["y"], "gemm", transB=1),
        kit.node("Add", ["y", "w"], ["z"], "add"),
    ]
    model = kit.model_of(nodes, {"w": w}, {"x": [4, 4]}, {"z": [4, 4]})
    x = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
    edges = {("mm", 1): kit.weight(1), ("gemm", 1): kit.weight(0)}
    graph = kit.quantized(model, {"x": kit.activation(), "a": kit.activation()}, edges, [{"x": x}])
    export(graph, tmp_path / "q.onnx")
    expected = kit.every_value(graph, {"x": x}, simulate=True)["z"]
    np.testing.assert_allclose(kit.outputs(tmp_path / "q.onnx", [{"x": x}])[0], expected, rtol=1e-5)
    stored = [i for i in onnx.load(tmp_path / "q.onnx").graph.initializer if list(i.dims) == [4, 4]]
    assert len(stored) == 3  # two int8, and the float one that the Add reads


def test_weights_that_are_not_baked_stay_in_float_behind_a_pair(kit, small_graph, samples, tmp_path):
    graph = small_graph(solve=False)
    for sample_graph in [small_graph()]:
        for name, config in sample_graph.configs.items():
            graph.configs[name].scale, graph.configs[name].offset = config.scale, config.offset
            graph.configs[name].state = config.state
    ParameterQuantizePass(baking_parameter=False).optimize(graph)
    PassiveParameterQuantizePass().optimize(graph)
    export(graph, tmp_path / "q.onnx")
    baked = small_graph()
    export(baked, tmp_path / "baked.onnx")
    one, other = (kit.outputs(tmp_path / n, samples[:5]) for n in ("q.onnx", "baked.onnx"))
    np.testing.assert_array_equal(one, other)
    assert "w1" in {t.name for t in onnx.load(tmp_path / "q.onnx").graph.initializer}


def test_weights_may_be_rounded_in_any_way_activations_may_not(kit, small_graph, samples, tmp_path):
    graph = small_graph(rounding=RoundingPolicy.ROUND_UP)
    export(graph, tmp_path / "q.onnx")
    expected = [kit.every_value(graph, s, simulate=True)["logits"] for s in samples[:5]]
    np.testing.assert_allclose(
        kit.outputs(tmp_path / "q.onnx", samples[:5]), expected, atol=1.01 * graph.config_of("logits").scale
    )
    graph.config_of("r2").rounding = RoundingPolicy.ROUND_HALF_UP
    with pytest.raises(ExportError, match=r"'r2'.*ROUND_HALF_UP.*ROUND_HALF_EVEN"):
        export(graph, tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def forget_activation(graph):
    graph.config_of("r1").state = QuantizationStates.INITIAL


def forget_weight(graph):
    graph.edges["conv1", 1].state = QuantizationStates.INITIAL


def forget_bias(graph):
    graph.edges["conv1", 2].state = QuantizationStates.PASSIVE_INIT


def calibrate_again(graph):
    graph.config_of("r1").scale = graph.config_of("r1").scale * np.float32(1.01)


def lose_the_input(graph):
    graph.edges["conv2", 0] = graph.config_of("r1").clone(scale=None, offset=None, state=QuantizationStates.FP32)


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (forget_activation, "r1.*run RuntimeCalibrationPass first"),
        (forget_weight, r"w1 \(input 1 of conv1\).*run ParameterQuantizePass first"),
        (forget_bias, r"b1 \(input 2 of conv1\).*run PassiveParameterQuantizePass first"),
        (calibrate_again, "conv2.*stale.*run PassiveParameterQuantizePass again"),
        (lose_the_input, "conv2.*input 0.*no scale.*PassiveParameterQuantizePass again"),
    ],
)
def test_a_missing_or_stale_scale_is_refused_and_nothing_written(spoil, names, small_graph, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    graph = small_graph()
    spoil(graph)
    with pytest.raises(StateError, match=names):
        export(graph, folder / "q.onnx")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("prop", ["DYNAMIC", "FLOATING"])
def test_policies_that_q_cannot_express(prop, small_graph, tmp_path):
    graph = small_graph()
    P = QuantizationProperty
    kind = P.FLOATING if prop == "FLOATING" else P.LINEAR | P.DYNAMIC
    graph.config_of("r1").policy = QuantizationPolicy(P.PER_TENSOR | P.ASYMMETRICAL | kind)
    with pytest.raises(ExportError, match=f"{prop}.*'r1'"):
        export(graph, tmp_path / "q.onnx")


def test_a_configuration_file_is_refused(small_graph, tmp_path):
    with pytest.raises(ExportError, match="no configuration file"):
        export(small_graph(), tmp_path / "q.onnx", tmp_path / "q.json")


def test_per_channel_below_opset_13_is_refused(kit, tmp_path):
    w = np.ones((4, 3), np.float32)
    model = kit.model_of([kit.node("MatMul", ["x", "w"], ["y"], "mm")], {"w": w}, {"x": [2, 4]}, {"y": [2, 3]})
    graph = kit.quantized(model, {}, {("mm", 1): kit.weight(1)}, [{"x": np.ones((2, 4), np.float32)}])
    graph.model.opset_imports[""] = 11
    with pytest.raises(ExportError, match="opset 13, the model has 11"):
        export(graph, tmp_path / "q.onnx")


def test_a_value_that_is_not_float32_is_refused(kit, tmp_path):
    model = kit.model_of([kit.node("Relu", ["x"], ["y"], "relu")], {}, {"x": [4]}, {"y": [4]})
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    config = kit.activation(scale=0.1, offset=0, state=QuantizationStates.ACTIVATED)
    graph = kit.quantized(model, {"y": config}, {}, [], solve=False)
    with pytest.raises(ExportError, match="FLOAT16"):
        export(graph, tmp_path / "q.onnx")


def test_a_subgraph_reads_the_dequantized_value(kit, tmp_path):
    helper = onnx.helper
    branches = [
        helper.make_graph([helper.make_node(op, ["r"], [op])], op, [], [helper.make_tensor_value_info(op, 1, [64])])
        for op in ("Neg", "Sqrt")
    ]
    nodes = [
        kit.node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("If", ["yes"], ["y"], "if", then_branch=branches[0], else_branch=branches[1]),
    ]
    model = kit.model_of(nodes, {"yes": np.array(True)}, {"x": [64]}, {"y": [64]})
    config = kit.activation(bits=2, scale=0.7, offset=0, state=QuantizationStates.ACTIVATED)
    x = np.random.default_rng(1).normal(size=64).astype(np.float32)
    export(kit.quantized(model, {"r": config}, {}, [], solve=False), tmp_path / "q.onnx")
    got = kit.outputs(tmp_path / "q.onnx", [{"x": x}])[0]
    np.testing.assert_array_equal(got, -fake_quantize(np.maximum(x, 0), config))


def test_a_graph_without_configs_is_the_float_model(kit, small_model, samples, tmp_path):
    export(load_onnx_graph(small_model), tmp_path / "f.onnx")
    assert kit.op_types(tmp_path / "f.onnx") == kit.op_types(small_model)
    np.testing.assert_array_equal(*(kit.outputs(p, samples[:3]) for p in (tmp_path / "f.onnx", small_model)))


def test_taken_names_are_avoided(kit, tmp_path):
    nodes = [
        kit.node("Neg", ["x"], ["y_float"], "y_QuantizeLinear"),
        kit.node("Abs", ["y_float"], ["y"], "abs"),
        kit.node("Add", ["y", "y_scale"], ["z"], "add"),
    ]
    model = kit.model_of(nodes, {"y_scale": np.float32([1])}, {"x": [8]}, {"z": [8]})
    x = np.linspace(-1, 1, 8, dtype=np.float32)
    graph = kit.quantized(model, {"y": kit.activation(bits=3)}, {}, [{"x": x}])
    export(graph, tmp_path / "q.onnx")
    onnx.checker.check_model(tmp_path / "q.onnx", full_check=True)
    expected = kit.every_value(graph, {"x": x}, simulate=True)["z"]
    np.testing.assert_array_equal(kit.outputs(tmp_path / "q.onnx", [{"x": x}])[0], expected)
