"""What the user decides: which nodes, which platform, which values differently."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.core import SettingError, TargetPlatform
from calibrant.quantizers import quantize_graph
from calibrant.quantizers.choice import matching

WEIGHTS = {"w": (3, 3, 1, 1), "b": (3,)}
NET = """(float[N,3,8,8] x) => (float[N,3,8,8] y) {
    [first] a = Conv(x, w, b)
    [act] r = Relu(a)
    [second] c = Conv(r, w, b)
    [join] y = Add(c, r)
}"""


def test_a_name_comes_before_a_type_before_an_expression():
    names = ["Conv", "Conv_1", "Relu_0", "a.b", "axb"]
    assert matching("it", "Conv", names, {"Conv", "Relu"}) == ["Conv"]
    assert matching("it", "Relu", names, {"Conv", "Relu"}) == "Relu"
    assert matching("it", "a.b", names) == ["a.b"]
    assert matching("it", "a.c|a.b", names) == ["a.b", "axb"]
    assert matching("it", "Conv.*", names) == ["Conv", "Conv_1"]


def test_a_pattern_that_fits_nothing_names_the_nearest():
    with pytest.raises(
        SettingError, match="leave_in_float: unknown name or operator type 'Con_1'; did you mean 'Conv_1'"
    ):
        matching("leave_in_float", "Con_1", ["Conv_1", "Relu_0"], ["Conv", "Relu"])
    with pytest.raises(SettingError, match=r"only: '\(' is no name, and no regular expression either"):
        matching("only", "(", ["Conv_1"])
    many = [f"/model/layer.{i}/MatMul" for i in range(2000)]
    with pytest.raises(SettingError, match="did you mean 'MatMul'"):
        matching("only", "Matmul", many, ["MatMul", "Add"])


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.data())
def test_every_name_means_itself(names, data):
    name = data.draw(st.sampled_from(names))
    assert matching("it", name, names) == [name]


def test_the_nearest_of_many_names():
    names = [f"blocks.{i}.conv" for i in range(30)]
    for typed, meant in (("blocks7.conv", "did you mean 'blocks.7.conv'"), ("zzz", "known: Add, Conv$")):
        with pytest.raises(SettingError, match=meant):
            matching("leave_in_float", typed, names, ["Conv", "Add"])


@pytest.mark.parametrize("pattern", ["second", "sec.*", "s.c[o]nd"])
def test_leave_in_float_by_name_and_expression(quantized, setting, pattern):
    setting.leave_in_float = [pattern]
    graph = quantized(NET, setting=setting, **WEIGHTS)
    assert graph.left_in_float == {
        "second": "left in float by the user",
        "join": "one of its inputs is float",
    }
    assert [g.values for g in graph.groups] == [["x"], ["r"]]
    assert not any(node == "second" for node, _ in graph.edges)


def test_leave_in_float_by_type(quantized, setting):
    setting.leave_in_float = ["Conv"]
    graph = quantized(NET, setting=setting, **WEIGHTS)
    assert graph.groups == []
    assert set(graph.left_in_float) == {"first", "act", "second", "join"}


def test_an_activation_left_in_float_is_not_fused(quantized, setting):
    setting.leave_in_float = ["act"]
    graph = quantized(NET, setting=setting, **WEIGHTS)
    assert graph.config_of("a") is not None
    assert graph.left_in_float["act"]


def test_only_keeps_the_rest_in_float_and_still_fuses(quantized, setting):
    setting.only = ["first"]
    graph = quantized(NET, setting=setting, **WEIGHTS)
    assert [g.values for g in graph.groups] == [["x"], ["r"]]
    assert graph.left_in_float == dict.fromkeys(["second", "join"], "not among what `only` names")


def test_only_and_leave_in_float_together(quantized, setting):
    setting.only, setting.leave_in_float = ["Conv"], ["first"]
    graph = quantized(NET, setting=setting, **WEIGHTS)
    assert [g.values for g in graph.groups] == [["r"], ["c"]]
    assert graph.left_in_float["first"] == "left in float by the user"


@pytest.mark.parametrize(
    ("key", "pattern", "words"),
    [
        ("leave_in_float", "thrid", "leave_in_float: unknown name or operator type 'thrid'"),
        ("leave_in_float", "secnd", "did you mean 'second'"),
        ("only", "Softmax", "only: unknown name or operator type 'Softmax'"),
        ("only", "act", "only: 'act' means Relu, which ONNXRUNTIME does not quantize"),
        ("overrides", "zz", "overrides: unknown value 'zz'"),
        ("overrides", "act", "overrides: 'act' is a node, and overrides are of values: it makes 'r'"),
        ("overrides", "a", "value 'a' is not quantized: it is left in float, or lies within a fused operator"),
    ],
)
def test_a_wish_that_fits_nothing_is_an_error(quantized, setting, key, pattern, words):
    setattr(setting, key, {pattern: {"num_of_bits": 4}} if key == "overrides" else [pattern])
    with pytest.raises(SettingError, match=words):
        quantized(NET, setting=setting, **WEIGHTS)


def test_the_dispatching_table(quantized, setting):
    setting.only = ["first"]
    setting.dispatching_table.append("act", TargetPlatform.FP32)
    setting.dispatching_table.append("second", TargetPlatform.ONNXRUNTIME)
    graph = quantized(NET, setting=setting, **WEIGHTS)
    assert [g.values for g in graph.groups] == [["x"], ["a"], ["r"], ["c"]]
    assert graph.left_in_float["act"] == "left in float by the dispatching table"
    setting.dispatching_table.append("join", TargetPlatform.TRT_INT8)
    with pytest.raises(SettingError, match="'join' is sent to TRT_INT8, in a model for ONNXRUNTIME; expected"):
        quantized(NET, setting=setting, **WEIGHTS)


def test_overrides_change_one_value_a_pattern_and_a_weight(quantized, setting):
    setting.overrides = {
        "x|r": {"num_of_bits": 4},
        "r": {"calib_algorithm": "kl", "symmetric": True},
        "w": {"num_of_bits": 6, "calib_algorithm": "mse"},
    }
    graph = quantized(NET, setting=setting, **WEIGHTS)
    x, r, c = (graph.config_of(v) for v in ("x", "r", "c"))
    assert (x.num_of_bits, x.quant_max, x.is_symmetric) == (4, 15, False)
    assert (r.num_of_bits, r.quant_min, r.quant_max, r.is_symmetric, r.observer_algorithm) == (4, -8, 7, True, "kl")
    assert (c.num_of_bits, c.is_symmetric) == (8, False)
    weight = graph.edges["first", 1]
    assert (weight.num_of_bits, weight.quant_max, weight.observer_algorithm) == (6, 31, "mse")


def test_values_on_one_scale_take_one_override(quantized, setting):
    text = "(float[N,3,8,8] x) => (float[N,192] y) { c = Conv(x, w, b) y = Flatten(c) }"
    setting.overrides = {"y": {"num_of_bits": 4}}
    graph = quantized(text, setting=setting, **WEIGHTS)
    assert graph.config_of("c") is graph.config_of("y")
    assert graph.config_of("c").num_of_bits == 4
    setting.overrides = {"y": {"num_of_bits": 4}, "c": {"num_of_bits": 5}}
    with pytest.raises(SettingError, match="'c' and 'y' share one scale"):
        quantized(text, setting=setting, **WEIGHTS)


def test_an_override_that_does_not_fit_leaves_the_graph_without_quantization(quantized, setting):
    graph = quantized(NET, "TRT_INT8", **WEIGHTS)
    setting.overrides = {"r": {"symmetric": False}}
    with pytest.raises(SettingError, match="TRT_INT8 takes symmetric int8 activations alone"):
        quantize_graph(graph, TargetPlatform.TRT_INT8, setting)
    assert (graph.groups, graph.edges, graph.configs, graph.platform) == ([], {}, {}, None)
    setting.overrides = {"w": {"symmetric": False}}
    with pytest.raises(SettingError, match="weights are symmetric"):
        quantize_graph(graph, TargetPlatform.TRT_INT8, setting)
