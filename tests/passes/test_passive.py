"""PassiveParameterQuantizePass: biases and constants follow from other scales, and never wrap around."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from calibrant import PassiveParameterQuantizePass, load_onnx_graph
from calibrant.core import ObservationError, QuantizationStates, StateError, TensorQuantizationConfig
from calibrant.core import QuantizationProperty as P
from calibrant.passes.passive import BIAS_LIMIT
from tests.passes.configs import activation, weight

S = QuantizationStates


def waiting(bits=32):
    half = 1 << (bits - 1)
    policy = P.PER_CHANNEL | P.LINEAR | P.SYMMETRICAL
    return TensorQuantizationConfig(
        policy, num_of_bits=bits, quant_min=-half, quant_max=half - 1, channel_axis=0, state=S.PASSIVE_INIT
    )


def graph_of(bias=(1.0, -2.0), op="Conv", nodes=1, **attributes):
    """`nodes` nodes c0, c1, ... that read x, the same weight w, and a bias b of their own kind."""
    w = np.ones((2, 3, 1, 1) if op == "Conv" else (2, 3), np.float32)
    made = [helper.make_node(op, ["x", "w", "b"], [f"y{i}"], f"c{i}", **attributes) for i in range(nodes)]
    infos = [helper.make_tensor_value_info(n, 1, None) for n in ("x", *(f"y{i}" for i in range(nodes)))]
    tensors = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.float32(bias), "b")]
    graph = helper.make_graph(made, "g", infos[:1], infos[1:], tensors)
    return load_onnx_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), False)


def prepared(graph, data, weight_config, node="c0"):
    """The graph with these configs on one node; returns the bias's."""
    bias = waiting()
    if data is not None:
        graph.configs["x"] = data
    graph.edges |= {(node, 1): weight_config, (node, 2): bias}
    return bias


def test_a_bias_has_input_scale_times_weight_scale():
    graph = graph_of()
    bias = prepared(graph, activation(0.1), weight([0.3, 0.7]))
    PassiveParameterQuantizePass().optimize(graph)
    np.testing.assert_array_equal(bias.scale, np.float32(0.1) * np.float32([0.3, 0.7]))
    assert bias.scale.dtype == np.float32
    assert not bias.offset.any()
    assert (bias.state, bias.num_of_bits, bias.channel_axis) == (S.PASSIVE, 32, 0)
    assert graph.report == []


def test_of_one_weight_scale_the_bias_has_one_too():
    graph = graph_of()
    bias = prepared(graph, activation(0.25), weight(0.5))
    PassiveParameterQuantizePass().optimize(graph)
    assert bias.scale == 0.125
    assert not bias.is_per_channel


def test_an_edge_of_its_own_decides_before_the_value():
    graph = graph_of()
    bias = prepared(graph, activation(0.25), weight(0.5))
    graph.edges["c0", 0] = activation(2.0)
    PassiveParameterQuantizePass().optimize(graph)
    assert bias.scale == 1


@pytest.mark.parametrize(
    ("attributes", "factor"), [({"alpha": 0.5}, 0.5), ({"beta": 0.5}, 2), ({"alpha": 3.0, "beta": 2.0}, 1.5)]
)
def test_a_gemm_scales_its_product_and_its_bias(attributes, factor):
    graph = graph_of(op="Gemm", transB=1, **attributes)
    bias = prepared(graph, activation(0.5), weight([0.25, 0.5]))
    PassiveParameterQuantizePass().optimize(graph)
    np.testing.assert_array_equal(bias.scale, np.float32([0.125, 0.25]) * factor)


def test_a_bias_with_channels_last_has_its_axis_there():
    graph = graph_of(bias=[[1.0, 2.0]], op="Gemm", transB=1)
    bias = prepared(graph, activation(), weight([0.5, 0.25]))
    PassiveParameterQuantizePass().optimize(graph)
    assert bias.channel_axis == 1


def test_a_weight_scale_is_raised_just_enough_for_its_bias():
    scales = np.float32([1e-12, 0.01])
    graph = graph_of(bias=[-5.0, 5.0])
    config = weight(scales)
    bias = prepared(graph, activation(0.1), config)
    PassiveParameterQuantizePass().optimize(graph)
    raised = config.scale
    assert raised[1] == scales[1]
    assert 5 / (np.float64(0.1) * raised[0]) == pytest.approx(BIAS_LIMIT, rel=1e-5)
    assert np.abs(np.rint([-5.0, 5.0] / bias.scale.astype(np.float64))).max() <= BIAS_LIMIT * 1.00001 < 2**31
    (report,) = graph.report
    assert "1 of 2 channels" in report
    assert "weight 'w'" in report
    assert "'c0'" in report


def test_a_power_of_two_is_raised_to_a_power_of_two():
    graph = graph_of(bias=[5.0, 0.0])
    config = weight(np.float32([2.0**-60, 2.0**-70]), power=True)
    prepared(graph, activation(0.1), config)
    PassiveParameterQuantizePass().optimize(graph)
    assert config.scale[0] == 2.0**-24  # 5 / 2^30 / 0.1 = 2^-24.4
    assert config.scale[1] == 2.0**-70


def test_a_weight_scale_that_nodes_share_is_raised_before_any_bias_is_settled():
    graph = graph_of(bias=[9.0, 0.0], nodes=2)
    config = weight(np.float32([1e-11, 1.0]))
    first = prepared(graph, activation(0.5), config, "c0")
    second = prepared(graph, activation(0.5), config, "c1")
    graph.edges["c1", 0] = activation(0.001)  # needs the larger weight scale, and comes second
    PassiveParameterQuantizePass().optimize(graph)
    np.testing.assert_array_equal(first.scale, np.float32(0.5) * config.scale)
    np.testing.assert_array_equal(second.scale, np.float32(0.001) * config.scale)


@pytest.mark.parametrize("state", [S.INITIAL, S.PASSIVE_INIT])
def test_an_input_that_is_not_calibrated_names_the_pass_to_run(state):
    graph = graph_of()
    bias = prepared(graph, activation(state=state), weight(0.5))
    with pytest.raises(
        StateError, match=rf"'x' \(input 0 of c0\) has state {state.name}.*RuntimeCalibrationPass first"
    ):
        PassiveParameterQuantizePass().optimize(graph)
    assert bias.state is S.PASSIVE_INIT


def test_a_weight_that_is_not_baked_names_the_pass_to_run_and_nothing_is_done():
    graph = graph_of(nodes=2)
    good = prepared(graph, activation(), weight(0.5), "c0")
    prepared(graph, activation(), weight(0.5, S.INITIAL), "c1")
    with pytest.raises(StateError, match=r"'w' \(input 1 of c1\).*ParameterQuantizePass first"):
        PassiveParameterQuantizePass().optimize(graph)
    assert good.state is S.PASSIVE_INIT


@pytest.mark.parametrize(
    ("bias", "data", "weight_config", "why"),
    [
        ((1.0, 2.0), None, weight(0.5), "reads its input in float"),
        ((1.0, 2.0), activation(), weight(0.5, S.FP32), "reads its weight in float"),
        ((1.0,), activation(), weight([0.5, 0.5]), "2 channels last"),
    ],
)
def test_a_bias_that_has_no_such_scale_stays_in_float_and_is_reported(bias, data, weight_config, why):
    graph = graph_of(bias, op="Gemm", transB=1)
    config = prepared(graph, data, weight_config)
    PassiveParameterQuantizePass().optimize(graph)
    assert config.state is S.FP32
    assert len(graph.report) == 1
    assert why in graph.report[0]


def test_a_gemm_without_its_bias_leaves_it_in_float():
    graph = graph_of(op="Gemm", transB=1, beta=0.0)
    config = prepared(graph, activation(), weight(0.5))
    PassiveParameterQuantizePass().optimize(graph)
    assert config.state is S.FP32


def test_a_bias_with_nan_is_refused():
    graph = graph_of((1.0, np.nan))
    prepared(graph, activation(), weight(0.5))
    with pytest.raises(ObservationError, match="bias of 'c0' has NaN"):
        PassiveParameterQuantizePass().optimize(graph)


@pytest.mark.parametrize("quantized", [True, False])
def test_constants_of_clip_and_pad_follow_the_value_they_work_on(quantized):
    nodes = [
        helper.make_node("Clip", ["x", "lo", "hi"], ["c"], "clip"),
        helper.make_node("Pad", ["c", "pads", "lo"], ["y"], "pad"),
    ]
    constants = {"lo": np.float32(0), "hi": np.float32(6), "pads": np.int64([1, 1])}
    infos = [helper.make_tensor_value_info(n, 1, None) for n in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    graph = load_onnx_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), False)
    data = activation(0.05, num_of_bits=8, quant_min=0, quant_max=255)
    if quantized:
        graph.configs |= {"x": data, "c": data}
    edges = {("clip", 1): waiting(8), ("clip", 2): waiting(8), ("pad", 2): waiting(8)}
    graph.edges |= edges
    PassiveParameterQuantizePass().optimize(graph)
    for config in edges.values():
        assert config.state is (S.PASSIVE if quantized else S.FP32)
        if quantized:
            assert (config.scale, config.offset, config.quant_max) == (data.scale, 3, 255)
