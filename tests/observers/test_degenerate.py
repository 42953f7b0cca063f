"""What every observer does with what no one wishes to observe."""

import numpy as np
import pytest

from calibrant.core import ConfigError, DataError, ObservationError, QuantizationStates, fake_quantize
from calibrant.observers import build_observer
from calibrant.sketches import SketchSpec, TensorSketch

METHODS = ["minmax", "percentile", "mse", "kl", "isotone"]
pytestmark = [pytest.mark.parametrize("method", METHODS), pytest.mark.parametrize("axis", [None, 0])]
TINY = 1e-44  # a subnormal


@pytest.fixture(params=[True, False], ids=["symmetric", "asymmetric"])
def symmetric(request):
    return request.param


def shaped(values, axis, channels=3):
    """Rows of the values; per channel each channel the same."""
    x = np.tile(np.float32(values), (channels, 4, 1))
    return x if axis is not None else x[0]


def test_all_zero(method, axis, symmetric, config, solve):
    for signed in (True, False):
        c = solve(config(method, symmetric, axis=axis, signed=signed), shaped([0, 0, 0], axis))
        assert (np.asarray(c.scale) == 1).all()
        assert (fake_quantize(np.zeros((3, 4)), c) == 0).all()
        assert (np.asarray(c.offset) >= c.quant_min).all()


@pytest.mark.parametrize("value", [3.0, -3.0, 1e-30, -1e30])
def test_a_constant(method, axis, value, symmetric, config, solve):
    x = shaped([value] * 3, axis)
    c = solve(config(method, symmetric, axis=axis), x)
    assert np.abs(fake_quantize(x, c) / value - 1).max() < 0.01


@pytest.mark.parametrize("sign", [1, -1])
def test_values_of_one_sign(method, axis, sign, symmetric, config, solve):
    x = np.random.default_rng(0).gamma(2, size=(3, 40, 100)).astype(np.float32) * sign
    c = solve(config(method, symmetric, axis=axis), x)
    if method == "isotone":
        assert c.detail["isotone"]["kept"] > 0.9 * c.detail["isotone"]["rows"]
    else:
        assert np.mean((fake_quantize(x, c) - x) ** 2) < 0.02 * np.mean(x**2)
    if not symmetric:
        assert (np.asarray(c.offset) == (c.quant_min if sign > 0 else c.quant_max)).all()


def test_subnormals(method, axis, symmetric, config, solve):
    c = solve(config(method, symmetric, axis=axis), shaped([TINY, 3 * TINY, -TINY], axis))
    assert (np.asarray(c.scale) == 1).all()
    mixed = solve(config(method, symmetric, axis=axis), shaped([TINY, 1.0, -0.5, 0.0, TINY], axis))
    assert (np.asarray(mixed.scale) > 1e-3).all()


def test_enormous_values(method, axis, symmetric, config, solve):
    x = shaped([-3.4e38, 3.4e38, 1.0, 0.0], axis)
    c = solve(config(method, symmetric, axis=axis), x)
    assert np.isfinite(c.scale).all()


def test_one_value(method, axis, symmetric, config, solve):
    x = np.float32([[[2.5]]] if axis is not None else 2.5)
    if method == "isotone" and axis is None:
        x = x.reshape(1)
    c = solve(config(method, symmetric, axis=axis), x)
    assert np.abs(fake_quantize(x, c) - 2.5).max() < 0.02


def test_unsigned_symmetric_refuses_negative_values(method, axis, config, solve):
    with pytest.raises(ConfigError, match="cannot hold negative values"):
        solve(config(method, axis=axis, signed=False), shaped([1, -1, 2], axis))


def test_an_empty_array(method, axis, config):
    observer = build_observer(config(method, axis=axis), "x")
    with pytest.raises(DataError, match=r"value 'x': cannot observe an empty array of shape \(0, 4\)"):
        observer.observe(np.zeros((0, 4), np.float32))


def test_nothing_observed(method, axis, config):
    c = config(method, axis=axis)
    with pytest.raises(ObservationError, match="'x': nothing was observed, so there is no scale to find"):
        build_observer(c, "x").render_quantization_config()
    spec = type(build_observer(c)).spec_for(c)
    with pytest.raises(ObservationError, match="'x': nothing was observed"):
        build_observer(c, "x").render_from(TensorSketch.empty(spec))
    assert (c.scale, c.offset, c.state) == (None, None, QuantizationStates.INITIAL)


def test_nan_and_inf_are_errors_with_their_numbers(method, axis, config, solve):
    c = config(method, axis=axis)
    x = shaped([1, np.nan, 2, np.inf, np.inf, -np.inf], axis, channels=1)
    with pytest.raises(
        ObservationError, match=r"'value': 4 NaN, 8 \+Inf and 4 -Inf among 24 elements.*ignore_nonfinite"
    ):
        solve(c, x)
    assert (c.scale, c.offset, c.state) == (None, None, QuantizationStates.INITIAL)


def test_nan_and_inf_can_be_ignored(method, axis, symmetric, config, solve):
    finite = np.random.default_rng(0).normal(size=(3, 40, 50)).astype(np.float32)
    broken = finite.copy()
    broken[:, ::2, 7] = np.nan
    broken[:, 1::2, 8] = np.inf
    c = solve(config(method, symmetric, axis=axis, ignore_nonfinite=True), broken)
    if method in ("minmax", "percentile"):
        ends = [np.where(np.isfinite(broken), broken, 0).max(axis=(1, 2)), finite.max(axis=(1, 2))]
        assert (ends[0] <= ends[1]).all()
    assert (np.asarray(c.scale) < 1).all()
    assert np.isfinite(c.scale).all()


def test_only_nan_and_inf(method, axis, config, solve):
    x = shaped([np.nan, np.inf], axis)
    with pytest.raises(ObservationError, match="no finite value was observed"):
        solve(config(method, axis=axis, ignore_nonfinite=True), x)


def test_a_channel_without_finite_values(method, axis, config, solve):
    if axis is None:
        return
    x = shaped([1, 2, 3], axis)
    x[1] = np.nan
    with pytest.raises(ObservationError, match="no finite value was observed in 1 of 3 channels, the first of them 1"):
        solve(config(method, axis=axis, ignore_nonfinite=True), x)


def test_a_channel_of_zeros_among_others(method, axis, symmetric, config, solve):
    if axis is None:
        return
    x = np.random.default_rng(0).normal(size=(3, 40, 50)).astype(np.float32)
    x[1] = 0
    c = solve(config(method, symmetric, axis=axis), x)
    assert c.scale[1] == 1
    assert c.scale[0] < 0.2
    assert c.scale[2] < 0.2


def test_a_sketch_that_was_solved_can_be_solved_again(method, axis, config, solve):
    """Rendering changes nothing but the config: more may be observed afterwards."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 30, 20)).astype(np.float32)
    observer = build_observer(config(method, False, axis=axis), "x")
    observer.observe(first)
    observer.render_quantization_config()
    observer.observe(second * 3)
    observer.render_quantization_config()
    both = solve(config(method, False, axis=axis), np.concatenate([first, second * 3], axis=1))
    np.testing.assert_array_equal(observer._quant_cfg.scale, both.scale)
    np.testing.assert_array_equal(observer._quant_cfg.offset, both.offset)


def test_histograms_of_any_fineness(method, axis, symmetric, config, solve):
    x = np.random.default_rng(0).normal(size=(3, 40, 100)).astype(np.float32)
    for bits in (1, 4, 12):
        spec = SketchSpec(
            mantissa_bits=bits,
            channel_axis=axis,
            per_channel=axis is not None,
            channel_mantissa_bits=bits,
            isotone_axis=-1,
        )
        c = solve(config(method, symmetric, axis=axis), TensorSketch.of(x, spec))
        assert ((np.asarray(c.scale) > 0.005) & (np.asarray(c.scale) < 0.1)).all()
