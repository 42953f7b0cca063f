"""ExactSimulationPass: no sum is a tie, so that a simulation and integer kernels give the same integers."""

from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from calibrant import ExactSimulationPass, QuantizationSetting, load_onnx_graph
from calibrant.api import export_graph, quantize
from calibrant.core import QuantizationProperty as P
from calibrant.core import QuantizationStates as S
from calibrant.core import StateError, TensorQuantizationConfig
from calibrant.passes.exact_simulation import (
    ACTIVATION_TOLERANCE,
    WEIGHT_TOLERANCE,
    joined,
    odd_fraction,
    odd_multiples,
)
from tests.passes.configs import activation, weight
from tests.runtime import opened

RNG = np.random.default_rng(5)
no_deadline = settings(deadline=None)  # the first call compiles
LARGEST = 4096  # of the denominators looked for; a smaller ratio has its own


def fraction_of(number):
    """The number as the fraction of least denominator that float64 cannot tell from it."""
    return Fraction(float(number)).limit_denominator(LARGEST)


@no_deadline
@given(st.lists(st.floats(1e-3, 8), min_size=1, max_size=4))
def test_a_ratio_becomes_a_near_fraction_with_an_odd_denominator(ratios):
    for ratio, found in zip(ratios, odd_fraction(ratios), strict=True):
        fraction = fraction_of(found)
        assert float(fraction) == pytest.approx(found, rel=1e-14)
        assert fraction.denominator % 2 == 1
        assert abs(found - ratio) <= WEIGHT_TOLERANCE * ratio * (1 + 1e-12)


@no_deadline
@given(st.floats(1e-9, 4e-4))
def test_a_tiny_ratio_becomes_one_part_of_an_odd_number(ratio):
    parts = 1 / float(odd_fraction(ratio))
    assert round(parts) % 2 == 1
    assert parts == pytest.approx(round(parts), rel=1e-12)
    assert abs(parts * ratio - 1) <= WEIGHT_TOLERANCE * (1 + 1e-12)


@no_deadline
@given(st.floats(1e-3, 2), st.integers(-(10**6), 10**6))
def test_no_whole_sum_comes_near_a_tie(ratio, whole):
    fraction = fraction_of(odd_fraction(ratio))
    product = whole * fraction
    distance = abs(product - (product.numerator // product.denominator) - Fraction(1, 2))
    assert distance >= Fraction(1, 2 * fraction.denominator)


def test_the_fraction_is_the_one_of_least_denominator():
    for ratio in RNG.uniform(0.002, 1.5, 20):
        near = (
            Fraction(k, d)
            for d in range(1, LARGEST, 2)
            for k in (int(ratio * d), int(ratio * d) + 1)
            if k and abs(k / d - ratio) <= WEIGHT_TOLERANCE * ratio
        )
        assert fraction_of(odd_fraction(ratio)).denominator == next(near).denominator


@no_deadline
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_scales_become_odd_multiples_of_one_unit(scales):
    found = odd_multiples(scales)
    assert (np.abs(found / scales - 1) <= ACTIVATION_TOLERANCE * (1 + 1e-12)).all()
    ratios = [fraction_of(scale / found.min()) for scale in found]
    assert all(ratio.numerator % 2 == 1 and ratio.denominator % 2 == 1 for ratio in ratios if ratio.numerator < LARGEST)


def test_sets_with_a_config_in_common_are_one():
    a, b, c, d, e = (activation() for _ in range(5))
    groups = joined([[a, b], [], [c], [d, e], [b, d]])
    assert sorted(sorted(map(id, group)) for group in groups) == sorted([sorted(map(id, (a, b, d, e))), [id(c)]])


def residual_net(rng, layers=6, channels=16):
    """A Conv; Convs with Relu and a residual Add after each; an average pool over an odd number of values."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["stem"], "stem")]
    weights = {"w": rng.normal(0, 0.25, (channels, channels, 1, 1))}
    last = "stem"
    for i in range(layers):
        weights |= {
            f"w{i}": rng.normal(0, 0.15, (channels, channels, 3, 3)),
            f"b{i}": rng.normal(0, 0.1, channels),
        }
        nodes += [
            helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"),
            helper.make_node("Add", [f"r{i}", last], [f"s{i}"], f"add{i}"),
        ]
        last = f"s{i}"
    nodes.append(helper.make_node("AveragePool", [last], ["y"], "pool", kernel_shape=[3, 3]))
    shape = [1, channels, 9, 9]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, [1, channels, 7, 7])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def both_runs(path, samples):
    """What the model gives as it is written, in float, and on integer kernels."""
    for optimized in (False, True):
        session = opened(path, optimized)
        yield np.concatenate([session.run(None, {"x": sample})[0] for sample in samples])


def test_simulation_and_integer_run_give_the_same_integers(tmp_path):
    rng = np.random.default_rng(25)  # draws a net in which many values fall half-way
    onnx.save(residual_net(rng), tmp_path / "net.onnx")
    samples = [rng.normal(0, 1, (1, 16, 9, 9)).astype(np.float32) for _ in range(48)]
    apart = {}
    for exact in (True, False):
        setting = QuantizationSetting()
        setting.exact_simulation = exact
        graph, _ = quantize(tmp_path / "net.onnx", samples, setting=setting)
        export_graph(graph, "ONNXRUNTIME", tmp_path / "q.onnx")
        simulated, integer = both_runs(tmp_path / "q.onnx", samples)
        step = float(graph.config_of("y").scale)
        apart[exact] = int((np.abs(simulated - integer) > 0.5 * step).sum())
    assert apart[True] == 0
    assert apart[False] > 0, "ties do occur in this net, so that the pass is seen to do something"


def one_conv(data, kernel, made, readers=1):
    """A graph of `readers` Convs of one weight, with these configs on what the first of them reads and makes."""
    weights = [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")]
    nodes = [helper.make_node("Conv", ["x", "w"], [f"y{i}"], f"conv{i}") for i in range(readers)]
    infos = [helper.make_tensor_value_info(name, 1, None) for name in ("x", *(f"y{i}" for i in range(readers)))]
    model = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    graph = load_onnx_graph(helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), False)
    graph.configs |= {"x": data} | ({"y0": made} if made is not None else {})
    graph.edges |= {(f"conv{i}", 1): kernel for i in range(readers)}
    return graph


def test_a_weight_is_moved_so_that_its_ratio_is_such_a_fraction():
    data, kernel, made = activation(0.37), weight(), activation(0.0811)
    before = np.array(kernel.scale, np.float64)
    ExactSimulationPass().optimize(one_conv(data, kernel, made))
    after = np.array(kernel.scale, np.float64)
    assert (before != after).all()
    assert np.abs(after / before - 1).max() <= WEIGHT_TOLERANCE * 1.001
    ratios = after * float(data.scale) / float(made.scale)
    assert all(Fraction(float(r)).limit_denominator(LARGEST).denominator % 2 == 1 for r in ratios)
    assert ratios == pytest.approx([float(fraction_of(r)) for r in ratios], rel=2e-7)
    assert (float(data.scale), float(made.scale)) == (np.float32(0.37), np.float32(0.0811))


@pytest.mark.parametrize(
    ("why", "parts"),
    {
        "powers of two": (activation(), weight([0.25, 0.5], power=True), activation()),
        "the output is float": (activation(), weight(), None),
        "16 bits": (activation(num_of_bits=16, quant_max=65535), weight(), activation()),
        "several read it": (activation(), weight(), activation(), 2),
    }.items(),
)
def test_what_is_left_as_it_is(why, parts):
    before = np.array(parts[1].scale)
    ExactSimulationPass().optimize(one_conv(*parts))
    assert (parts[1].scale == before).all(), why


def test_without_the_weights_scale_it_says_which_pass_comes_first():
    graph = one_conv(activation(), weight(None, state=S.INITIAL), activation())
    with pytest.raises(StateError, match=r"ExactSimulationPass: .*'conv0'.* run .*ParameterQuantizePass first"):
        ExactSimulationPass().optimize(graph)


def test_a_bias_waits_for_its_scale_again():
    graph = one_conv(activation(), weight(), activation())
    bias = TensorQuantizationConfig(
        P.PER_CHANNEL | P.LINEAR | P.SYMMETRICAL,
        num_of_bits=32,
        quant_min=-(2**31),
        quant_max=2**31 - 1,
        channel_axis=0,
        scale=[1, 1],
        offset=[0, 0],
        state=S.PASSIVE,
    )
    graph.edges["conv0", 2] = bias
    ExactSimulationPass().optimize(graph)
    assert bias.state is S.PASSIVE_INIT
    assert bias.scale is None
