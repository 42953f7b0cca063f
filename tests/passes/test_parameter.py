"""ParameterQuantizePass: scales of weights against formulas and brute force."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from calibrant import BaseTensorObserver, ParameterQuantizePass, load_onnx_graph, register_calibration_observer
from calibrant.core import (
    ConfigError,
    ObservationError,
    QuantizationStates,
    RoundingPolicy,
    SettingError,
    TensorQuantizationConfig,
    affine,
    fake_quantize,
)
from calibrant.core import QuantizationProperty as P
from calibrant.passes.least_error import MORE, least_error

RNG = np.random.default_rng(5)
SHAPES = {
    "normal": RNG.normal(0, 1, (6, 500)),
    "heavy tails": RNG.standard_t(2, (6, 500)),
    "uniform": RNG.uniform(-1, 1, (6, 500)),
    "one outlier": np.concatenate([RNG.normal(0, 0.01, (6, 499)), np.full((6, 1), 1.0)], axis=1),
    "few": RNG.normal(0, 1, (6, 9)),
    "one sign": np.abs(RNG.normal(0, 1, (6, 500))),
    "spread channels": RNG.normal(0, 1, (6, 500)) * np.array([1e-6, 1e-3, 1, 10, 1e3, 1e6])[:, None],
}


def config_for(bits=8, axis=None, asymmetric=False, power=False, narrow=True, **more):
    policy = P.LINEAR | (P.ASYMMETRICAL if asymmetric else P.SYMMETRICAL) | (P.POWER_OF_2 if power else 0)
    policy |= P.PER_TENSOR if axis is None else P.PER_CHANNEL
    low, high = -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return TensorQuantizationConfig(policy, num_of_bits=bits, quant_min=low, quant_max=high, channel_axis=axis, **more)


def graph_of(*weights, op="MatMul"):
    """One MatMul per weight, each on the same input; node names mm0, mm1, ..."""
    nodes = [helper.make_node(op, ["x", f"w{i}"], [f"y{i}"], f"mm{i}") for i in range(len(weights))]
    infos = [helper.make_tensor_value_info(n, 1, None) for n in ("x", *(f"y{i}" for i in range(len(weights))))]
    tensors = [numpy_helper.from_array(np.float32(w), f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    return load_onnx_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), False)


def error(x, config, scale, offset):
    return float(((fake_quantize(x, config.clone(scale=scale, offset=offset)) - x).astype(np.float64) ** 2).sum())


def brute_force(x, config, ratios=3000):
    """The least squared error over that many ratios of the full range."""
    x = np.float32(x)
    lo, hi = min(x.min(), 0), max(x.max(), 0)
    return min(error(x, config, *affine(lo * r, hi * r, config)) for r in np.linspace(0.02, 1.02, ratios))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_minmax_is_the_formula(axis):
    w = np.float32(RNG.normal(0, 1, (4, 7)))
    graph, config = graph_of(w), config_for(axis=axis)
    graph.edges["mm0", 1] = config
    ParameterQuantizePass().optimize(graph)
    largest = np.abs(w).max() if axis is None else np.abs(w).max(axis=1 - axis % 2)
    np.testing.assert_array_equal(config.scale, np.float32(2 * largest.astype(np.float64) / 254))
    assert config.scale.shape == config.offset.shape == np.shape(largest)
    assert config.state is QuantizationStates.BAKED


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_mse_is_the_least_error(shape, bits):
    values = np.float32(SHAPES[shape])
    config, single = config_for(bits, axis=0, narrow=False), config_for(bits, narrow=False)
    scale, offset = least_error(values, config)
    for row, s, o in list(zip(values, scale, offset, strict=True))[::2]:
        found, least = error(row, single, s, o), brute_force(row, single, 1000)
        assert found <= least * (1.03 if bits == 8 else 1.01)
        assert found <= error(row, single, *affine(row.min(), row.max(), single))


def test_mse_per_channel_is_the_channel_alone():
    values, config = np.float32(SHAPES["heavy tails"]), config_for(4, axis=0)
    scale, _ = least_error(values, config)
    alone = [least_error(row, config_for(4))[0] for row in values]
    np.testing.assert_array_equal(scale, alone)
    along_the_other_axis, _ = least_error(values.T, config_for(4, axis=1))
    np.testing.assert_array_equal(along_the_other_axis, scale)


def test_mse_of_many_values():
    values, config = np.float32(np.random.default_rng(1).normal(0, 1, 100_000)), config_for(4)
    scale, offset = least_error(values, config)
    assert error(values, config, scale, offset) <= brute_force(values, config, 300) * 1.0002


def test_mse_of_more_values_than_are_searched_beside():
    values, config = np.float32(np.random.default_rng(2).normal(0, 1, MORE + 1)), config_for(8)
    scale, offset = least_error(values, config)
    assert error(values, config, scale, offset) <= brute_force(values, config, 20) * 1.0002


@pytest.mark.parametrize("shape", ["normal", "heavy tails", "one sign", "uniform"])
def test_mse_searches_both_ends_when_asymmetric(shape):
    x = np.float32(SHAPES[shape].reshape(-1)) + np.float32(0.3)
    config = config_for(4, asymmetric=True, narrow=False)
    scale, offset = least_error(x, config)
    lo, hi = min(x.min(), 0), max(x.max(), 0)
    ratios = np.linspace(0.03, 1.02, 60)
    least = min(error(x, config, *affine(lo * a, hi * b, config)) for a in ratios for b in ratios)
    assert error(x, config, scale, offset) <= least * 1.01


def test_mse_clips_one_end_alone_where_that_is_best():
    x = np.float32([*np.random.default_rng(0).uniform(0, 1, 3000), -1.2, -1.2])
    config = config_for(4, asymmetric=True, narrow=False)
    both = min(error(x, config, *affine(-1.2 * r, r, config)) for r in np.linspace(0.1, 1.02, 500))
    assert error(x, config, *least_error(x, config)) < 0.9 * both


def test_mse_of_powers_of_two():
    x, config = np.float32(SHAPES["heavy tails"].reshape(-1)), config_for(4, power=True)
    scale, offset = least_error(x, config)
    powers = [np.float32(2.0**e) for e in range(-12, 8)]
    assert scale in powers
    assert error(x, config, scale, offset) == min(error(x, config, p, 0) for p in powers)


def test_mse_knows_how_the_weight_will_be_rounded():
    x, config = np.float32(RNG.uniform(-1, 0, 400)), config_for(4, rounding=RoundingPolicy.ROUND_UP)
    scale, offset = least_error(x, config)
    assert error(x, config, scale, offset) <= brute_force(x, config, 500) * 1.01


def test_zeros_take_the_largest_scale_of_the_others():
    w = np.float32(RNG.normal(0, 1, (5, 3)))
    w[:, 1] = 0
    for method in ("minmax", "mse"):
        graph, config = graph_of(w), config_for(axis=1)
        graph.edges["mm0", 1] = config
        ParameterQuantizePass(method).optimize(graph)
        assert config.scale[1] == max(config.scale[0], config.scale[2]) > 0


@pytest.mark.parametrize("axis", [None, 1])
def test_nothing_but_zeros_has_scale_1(axis):
    graph, config = graph_of(np.zeros((5, 3))), config_for(axis=axis)
    graph.edges["mm0", 1] = config
    ParameterQuantizePass("mse").optimize(graph)
    assert (config.scale == 1).all()
    assert not config.offset.any()


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_a_weight_with_nan_is_refused_and_nothing_is_changed(method):
    bad = np.ones((2, 2))
    bad[0, 1] = np.inf
    graph, good, other = graph_of(np.ones((2, 2)), bad), config_for(), config_for()
    graph.edges |= {("mm0", 1): good, ("mm1", 1): other}
    with pytest.raises(ObservationError, match="weight 'w1': 1 of 4 values"):
        ParameterQuantizePass(method).optimize(graph)
    assert good.scale is None
    assert good.state is QuantizationStates.INITIAL


def test_only_weights_that_are_initial_are_touched():
    graph = graph_of(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)))
    done = config_for(scale=3, offset=0, state=QuantizationStates.BAKED)
    in_float = config_for(state=QuantizationStates.FP32)
    activation = config_for(asymmetric=True)
    graph.edges |= {("mm0", 1): done, ("mm1", 1): in_float, ("mm2", 0): activation}
    ParameterQuantizePass().optimize(graph)
    assert done.scale == 3
    assert in_float.scale is None
    assert activation.state is QuantizationStates.INITIAL


def test_one_config_on_several_edges_is_solved_once_and_two_configs_for_one_weight_each():
    graph = graph_of(np.float32([[1, 2], [3, 40]]))
    model = graph.model.graph
    assert len(list(model)) == 1
    rows, columns = config_for(axis=0), config_for(axis=1)
    graph.edges |= {("mm0", 1): columns, ("mm0", 0): config_for()}
    ParameterQuantizePass().optimize(graph)
    np.testing.assert_allclose(columns.scale, np.float32([3, 40]) / 127)
    graph.edges["mm0", 1] = rows
    ParameterQuantizePass().optimize(graph)
    np.testing.assert_allclose(rows.scale, np.float32([2, 40]) / 127)


def test_without_baking_the_weight_is_only_activated():
    graph, config = graph_of(np.ones((2, 2))), config_for()
    graph.edges["mm0", 1] = config
    ParameterQuantizePass(baking_parameter=False).optimize(graph)
    assert config.state is QuantizationStates.ACTIVATED


class Half(BaseTensorObserver):
    """Half of the range; the weight's name is known."""

    def solve(self, sketch):
        assert self._watch_on == "w0"
        lo, hi = self.ends(sketch)
        return affine(lo / 2, hi / 2, self._quant_cfg)


def test_a_registered_observer_is_found_by_name():
    register_calibration_observer("half-weights", Half)
    graph, config = graph_of(np.float32([[1, -2], [3, 4]])), config_for(axis=0)
    graph.edges["mm0", 1] = config
    ParameterQuantizePass("Half-Weights").optimize(graph)
    np.testing.assert_allclose(config.scale, np.float32([1, 2]) / 127)
    assert config.observer_algorithm == "Half-Weights"


def test_an_unknown_method_is_refused():
    graph = graph_of(np.ones((2, 2)))
    graph.edges["mm0", 1] = config_for()
    with pytest.raises(SettingError, match="did you mean 'minmax'"):
        ParameterQuantizePass("minmaxx").optimize(graph)


def test_a_constant_with_the_method_of_activations_gets_mse():
    w = np.float32(RNG.standard_t(2, (50, 50)))
    graph, config = graph_of(w), config_for(4, observer_algorithm="KL")
    graph.edges["mm0", 1] = config
    ParameterQuantizePass().optimize(graph)
    assert config.observer_algorithm == "mse"
    assert config.scale == least_error(w, config_for(4))[0]


def test_a_weight_below_zero_on_an_unsigned_symmetric_grid_is_refused():
    graph = graph_of(np.float32([[-1, 2]]))
    config = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL, quant_min=0, quant_max=255)
    graph.edges["mm0", 1] = config
    with pytest.raises(ConfigError, match="cannot hold negative values"):
        ParameterQuantizePass().optimize(graph)
