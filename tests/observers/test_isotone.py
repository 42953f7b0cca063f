"""isotone against brute force over scales and offsets on the raw rows."""

import logging

import numba
import numpy as np
import pytest

from calibrant.core import ConfigError, ObservationError, RoundingPolicy, TensorQuantizationConfig, quantize
from calibrant.core import QuantizationProperty as P
from calibrant.observers import build_observer
from calibrant.observers.isotone import ROUNDING
from calibrant.observers.kernels import order
from calibrant.sketches import SketchSpec, TensorSketch

ROWS, LENGTH = 2000, 50


@numba.njit
def most_kept_by_brute_force(top, second, scales, offsets, low, high):
    most = 0
    for i in range(len(scales)):
        s, o, kept = np.float32(scales[i]), offsets[i], 0
        for r in range(len(top)):
            a = min(max(np.rint(top[r] / s) + o, low), high)
            b = min(max(np.rint(second[r] / s) + o, low), high)
            kept += a > b
        most = max(most, kept)
    return most


def brute_force(x, c, axis=-1, tries=10_000):
    """The most rows kept by that many random scales, log-uniform over all that keep any, and offsets."""
    rng = np.random.default_rng(5)
    rows = np.sort(np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]), axis=1)
    largest = 2 * float(np.abs(rows[:, -2:]).max())
    scales = np.exp(rng.uniform(np.log(largest / c.levels / 100), np.log(largest), tries))
    offsets = np.zeros(tries) if c.is_symmetric else rng.integers(c.quant_min, c.quant_max + 1, tries).astype(float)
    return most_kept_by_brute_force(rows[:, -1], rows[:, -2], scales, offsets, c.quant_min, c.quant_max)


def kept(x, c, axis=-1):
    """How many rows the config keeps, by the arithmetic of `core`."""
    two = np.sort(np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]), axis=1)[:, -2:]
    q = quantize(two, c)
    return int((q[:, 1] > q[:, 0]).sum())


def scores():
    """What isotone is for: scores of classes, and rows that ask for a compromise."""
    rng = np.random.default_rng(0)

    def softmax(z):
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    found = {
        "softmax": softmax(rng.normal(size=(ROWS, 100)) * 3),
        "sharp softmax": softmax(rng.normal(size=(ROWS, 300)) * 8),
        "logits": rng.normal(size=(ROWS, 100)) * 3,
        "log softmax": np.log(softmax(rng.normal(size=(ROWS, 10)) * 2)),
        "both signs": np.concatenate([rng.normal(-5, 0.5, (ROWS // 2, 4)), rng.normal(9, 0.3, (ROWS // 2, 4))]),
        "narrow": rng.normal(0, 1, (ROWS, 1)) + rng.normal(0, 0.01, (ROWS, 5)),
        "few": rng.normal(size=(16, 5)),
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


SCORES = scores()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", SCORES)
def test_scores_keep_as_many_rows_as_brute_force(kind, symmetric, bits, config, solve):
    x = SCORES[kind]
    c = solve(config("isotone", symmetric, bits), x)
    assert kept(x, c) >= 0.995 * brute_force(x, c)
    assert c.detail["isotone"] == {"rows": len(x), "kept": kept(x, c), "tied": 0}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_any_values_keep_as_many_rows_as_brute_force(name, symmetric, bits, data, config, solve):
    x = data[name][: ROWS * LENGTH].reshape(ROWS, LENGTH)
    c = solve(config("isotone", symmetric, bits), x)
    assert kept(x, c) >= 0.995 * brute_force(x, c)
    two = np.sort(x, axis=1)[:, -2:]
    assert c.detail["isotone"] == {"rows": ROWS, "kept": kept(x, c), "tied": int((two[:, 0] == two[:, 1]).sum())}


def test_minmax_keeps_fewer():
    """What the bounds above would let pass if nothing were searched."""
    x = SCORES["softmax"]
    c = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL, scale=2 / 255, offset=0)
    assert kept(x, c) < 0.995 * brute_force(x, c)


def test_more_rows_than_margins_keep_exactly(config, solve):
    """Beyond 65,536 different rows the margins are coarser."""
    rng = np.random.default_rng(2)
    x = rng.normal(0, 3, (100_000, 6)).astype(np.float32)
    c = solve(config("isotone", False), x)
    assert kept(x, c) >= 0.995 * brute_force(x, c, tries=500)
    assert c.detail["isotone"]["kept"] == pytest.approx(kept(x, c), abs=0.005 * len(x))


def test_ties_go_to_the_smaller_error(config, solve, error):
    """Two far-apart classes are kept by a wide range of scales: the best of these by error is not far from mse's."""
    rng = np.random.default_rng(4)
    x = rng.normal(0, 0.3, (500, 8)).astype(np.float32)
    x[np.arange(500), rng.integers(0, 8, 500)] += 4
    for symmetric in (True, False):
        isotone, mse = (solve(config(method, symmetric), x) for method in ("isotone", "mse"))
        assert isotone.detail["isotone"]["kept"] == 500
        assert error(x, isotone) <= 1.05 * error(x, mse)
    coarse = config("isotone")
    coarse.scale, coarse.offset = 0.5, 0
    assert kept(x, coarse) == 500
    assert error(x, coarse) > 10 * error(x, mse)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_rows_run_along_the_axis_of_the_setting(axis, config, solve):
    x = np.random.default_rng(6).normal(size=(40, 30, 50)).astype(np.float32)
    c = solve(config("isotone", False, isotone_axis=axis), x)
    assert c.detail["isotone"]["rows"] == x.size // x.shape[axis]
    assert kept(x, c, axis) >= 0.995 * brute_force(x, c, axis, 2000)


@pytest.mark.parametrize("symmetric", [True, False])
def test_per_channel_is_each_channel_alone(symmetric, config, solve):
    rng = np.random.default_rng(8)
    size = np.exp(rng.normal(size=(1, 6, 1)))
    x = (rng.normal(size=(400, 6, 20)) * size).astype(np.float32)
    together = solve(config("isotone", symmetric, 6, axis=1), x)
    total = 0
    for channel in range(6):
        alone = solve(config("isotone", symmetric, 6), x[:, channel])
        here = alone.clone(scale=together.scale[channel], offset=together.offset[channel])
        assert kept(x[:, channel], here) >= 0.995 * kept(x[:, channel], alone)
        total += kept(x[:, channel], here)
    assert together.detail["isotone"] == {"rows": 2400, "kept": total, "tied": 0}


def test_the_channels_cannot_be_the_rows(config, solve):
    with pytest.raises(ConfigError, match="make the config PER_TENSOR, or choose another isotone_axis"):
        solve(config("isotone", axis=1), np.random.default_rng(0).normal(size=(9, 5)))


@pytest.mark.parametrize("axis", [-2, 0])
def test_rows_along_another_axis_than_collected(axis, config):
    sketch = TensorSketch.of(np.eye(5, dtype=np.float32), SketchSpec(isotone_axis=axis))
    with pytest.raises(ObservationError, match="margins along axis -1"):
        build_observer(config("isotone"), "x").render_from(sketch)


def test_margins_that_were_not_collected(config, sketches):
    with pytest.raises(ObservationError, match=r"'x': the sketch does not hold the margins .*isotone_axis"):
        build_observer(config("isotone"), "x").render_from(sketches["normal"])


def test_ties_are_reported_and_solved_like_mse(config, solve, caplog):
    x = np.full((30, 4), 0.7, np.float32)
    with caplog.at_level(logging.INFO):
        isotone, mse = (solve(config(method), x) for method in ("isotone", "mse"))
    assert isotone.detail["isotone"] == {"rows": 30, "kept": 0, "tied": 30}
    assert isotone.scale == mse.scale
    assert "0 of 30 rows (30 are tied)" in caplog.text


@pytest.mark.parametrize("power_of_2", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_scores_next_to_zero_take_no_scale_that_float32_cannot_hold(symmetric, power_of_2, config, solve):
    x = np.float32([[1e-40, 0.0, -5.0], [-1e-40, -2e-40, -5.0]])
    isotone, mse = (solve(config(method, symmetric, power_of_2=power_of_2), x) for method in ("isotone", "mse"))
    assert isotone.detail["isotone"] == {"rows": 2, "kept": 0, "tied": 0}
    assert isotone.scale == mse.scale


def test_rows_of_one_value_have_no_order(config, solve):
    c = solve(config("isotone"), np.random.default_rng(0).normal(size=(30, 1)))
    assert c.detail["isotone"] == {"rows": 0, "kept": 0, "tied": 0}


@pytest.mark.parametrize("symmetric", [True, False])
def test_power_of_2_is_the_best_power_of_two(symmetric, config, solve):
    for x in (SCORES["softmax"], SCORES["both signs"]):
        c = solve(config("isotone", symmetric, 5, power_of_2=True), x)
        assert np.log2(float(c.scale)) % 1 == 0
        tried = [c.clone(scale=2.0**e, offset=o) for e in range(-12, 5) for o in ([0] if symmetric else range(-16, 16))]
        assert kept(x, c) == max(kept(x, t) for t in tried)


@pytest.mark.parametrize("rounding", RoundingPolicy)
def test_rounding_is_that_of_the_config(rounding):
    """The kernel's integers are those that `core.quantize` gives, ties and all."""
    c = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL, rounding, scale=0.5, offset=0)
    x = np.arange(-3, 3.01, 0.125, dtype=np.float32)
    assert [order.level(float(v), 0.5, ROUNDING[rounding]) for v in x] == quantize(x, c).tolist()


@pytest.mark.parametrize("rounding", [RoundingPolicy.ROUND_UP, RoundingPolicy.ROUND_HALF_TOWARDS_ZERO])
def test_other_roundings_keep_rows_too(rounding, config, solve):
    for symmetric in (True, False):
        c = config("isotone", symmetric, 4).clone(rounding=rounding)
        x = SCORES["logits"]
        solve(c, x)
        tried = [c.clone(scale=s) for s in np.geomspace(0.02, 20, 300)]
        assert kept(x, c) >= max(kept(x, t) for t in tried)
