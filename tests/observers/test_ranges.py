"""minmax and percentile against numpy on the raw values."""

import numpy as np
import pytest

from calibrant.core import SettingError, affine
from calibrant.observers import Distribution
from calibrant.sketches import Extremes, Histogram, LogBins, SketchSpec, TensorSketch

PERCENTILES = (0.9, 0.99, 0.999, 0.9999, 0.99999, 1.0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_minmax_is_numpys(name, symmetric, data, sketches, config, solve):
    c = solve(config("minmax", symmetric), sketches[name])
    x = data[name].astype(np.float64)
    lo, hi = min(x.min(), 0), max(x.max(), 0)
    expected = 2 * max(-lo, hi) / 255 if symmetric else (hi - lo) / 255
    assert float(c.scale) == np.float32(expected)
    assert float(c.offset) == (0 if symmetric else np.clip(np.rint(-128 - lo / expected), -128, 127))


def test_minmax_rounds_a_power_of_two_up(data, sketches, config, solve):
    exact, power = (solve(config("minmax", power_of_2=p), sketches["student"]) for p in (False, True))
    assert float(exact.scale) <= float(power.scale) < 2 * float(exact.scale)
    assert np.log2(float(power.scale)) % 1 == 0


@pytest.mark.parametrize("bits", [6, 8])
@pytest.mark.parametrize("p", PERCENTILES)
def test_quantiles_are_within_a_bin_of_numpys(name, p, bits, data):
    x, bins = data[name], LogBins(bits)
    seen = Distribution.of(Histogram.of(x, bins), Extremes.of(x))
    for found, values, at in (
        (seen.quantile(p), x, p),
        (seen.quantile(1 - p), x, 1 - p),
        (seen.quantile_of_magnitude(p), np.abs(x), p),
    ):
        expected = np.quantile(values.astype(np.float64), at)
        around = np.quantile(values, at, method="lower"), np.quantile(values, at, method="higher")
        width = max(float(bins.upper(key) - bins.lower(key)) for key in bins.keys(around))
        assert abs(found - expected) <= width


def test_quantiles_at_atoms_and_ends_are_exact(data):
    x = data["relu6"]
    seen = Distribution.of(Histogram.of(x), Extremes.of(x))
    assert [seen.quantile(p) for p in (0, 0.1, 0.95, 1)] == [0, 0, 6, 6]
    assert [seen.quantile_of_magnitude(p) for p in (0, 0.1, 0.95, 1)] == [0, 0, 6, 6]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("p", [0.99, 0.9999])
def test_percentile_is_the_range_between_quantiles(name, symmetric, p, data, sketches, config, solve):
    c = solve(config("percentile", symmetric, percentile=p), sketches[name])
    x = data[name].astype(np.float64)
    if symmetric:
        hi = np.quantile(np.abs(x), p)
        lo = -hi
    else:
        lo, hi = min(np.quantile(x, 1 - p), 0), max(np.quantile(x, p), 0)
    width = (hi - lo) * 2.0**-7  # a bin at either end
    assert abs(float(c.scale) * 255 - (hi - lo)) <= width
    assert abs(float(c.offset) - (0 if symmetric else np.clip(np.rint(-128 - lo / c.scale), -128, 127))) <= 2


def test_percentile_counts_all_batches_as_one(config, solve):
    """A mean of the batches' own percentiles would be far off: one batch holds all the large values."""
    rng = np.random.default_rng(1)
    batches = [rng.normal(size=5000), rng.normal(size=5000), 50 * rng.normal(size=5000)]
    whole = np.concatenate(batches).astype(np.float32)
    mean = np.mean([np.quantile(np.abs(b), 0.99) for b in batches])
    exact = np.quantile(np.abs(whole), 0.99)
    c = config("percentile", percentile=0.99)
    from calibrant.observers import build_observer

    observer = build_observer(c)
    for batch in batches:
        observer.observe(batch)
    observer.render_quantization_config()
    assert float(c.scale) * 127.5 == pytest.approx(exact, rel=2**-8)
    assert abs(mean - exact) > 0.3 * exact


@pytest.mark.parametrize("wrong", [0, 0.5, 1.5, "0.99", True, float("nan")])
def test_percentile_out_of_range(wrong, config, solve):
    with pytest.raises(SettingError, match=r"percentile must be a number above 0\.5 up to 1"):
        solve(config("percentile", percentile=wrong), np.ones(4, np.float32))


def test_percentile_in_per_cent_is_recognised(config, solve):
    with pytest.raises(SettingError, match=r"did you mean 0\.9999\?"):
        solve(config("percentile", percentile=99.99), np.ones(4, np.float32))


@pytest.mark.parametrize("symmetric", [True, False])
def test_per_channel_is_each_channel_alone(symmetric, make_data, config, solve):
    channels = np.stack(list(make_data(size=20_000).values()), axis=-1).reshape(100, 200, -1)
    exact = solve(config("minmax", symmetric, axis=2), channels)
    percentile = solve(config("percentile", symmetric, axis=-1, percentile=0.999), channels)
    for c in range(channels.shape[2]):
        x = channels[..., c]
        alone = solve(config("minmax", symmetric), x)
        assert exact.scale[c] == alone.scale
        assert exact.offset[c] == alone.offset
        alone = solve(config("percentile", symmetric, percentile=0.999), x)
        ends = [[(q - v.offset[i]) * v.scale[i] for q in (-128, 127)] for v, i in ((percentile, c), (alone, ()))]
        assert np.abs(np.subtract(*ends)).max() <= max(np.abs(ends[1])) * 2.0**-5 + float(alone.scale)


def test_count_is_exact_at_the_edges_of_bins(name, data, sketches):
    x = data[name]
    seen = Distribution.of(sketches[name].histogram, sketches[name].extremes)
    edges = sketches[name].histogram.bins.upper(sketches[name].histogram.keys[::37])
    expected = [(x < edge).sum() if edge > 0 else (x <= edge).sum() for edge in edges]
    np.testing.assert_allclose(seen.count(edges * (1 - 1e-12 * np.sign(edges))), expected, atol=1e-6)
    assert seen.size == x.size
    assert seen.zeros == (x == 0).sum()


@pytest.mark.parametrize("sign", [1, -1])
def test_values_all_of_one_sign_may_begin_with_what_is_next_to_zero(sign):
    """Such as probabilities of which many underflow: they count once, and others not less for them."""
    x = sign * np.linspace(0.01, 1, 10_000, dtype=np.float32)
    x[:300] = sign * np.float32(1e-44)
    seen = Distribution.of(Histogram.of(x), Extremes.of(x))
    assert seen.count([-2, 2]).tolist() == [0, 10_000]
    assert seen.quantile_of_magnitude(0.99) == pytest.approx(np.quantile(np.abs(x), 0.99), rel=2**-8)
    for p in (0.01, 0.5, 0.99):
        assert seen.quantile(p) == pytest.approx(np.quantile(x, p), rel=2**-8)


@pytest.mark.parametrize("at", [0.7, 1.2345, 3.0, -2.5, 1e-20])
def test_an_atom_is_found_where_it_is(at):
    """A fifth of the values in one place, amid smooth ones: the mass jumps there, to 2^-16 of the place."""
    rng = np.random.default_rng(3)
    x = (rng.normal(0, 1.5, 100_000) * (1 if abs(at) > 1e-9 else 1e-20)).astype(np.float32)
    x[:20_000] = at
    seen = Distribution.of(Histogram.of(x), Extremes.of(x))
    before, after = seen.count(np.sort([at * (1 - 2**-15), at * (1 + 2**-15)]))
    assert after - before == pytest.approx(20_000, rel=0.02)


def test_per_tensor_quantiles_of_a_sketch_with_channels(config, solve):
    x = np.random.default_rng(0).normal(size=(50, 7, 30)).astype(np.float32)
    plain = TensorSketch.of(x, SketchSpec())
    with_channels = TensorSketch.of(x, SketchSpec(channel_axis=1, per_channel=True))
    for method in ("minmax", "percentile", "mse", "kl"):
        for symmetric in (True, False):
            one, other = (solve(config(method, symmetric), sketch) for sketch in (plain, with_channels))
            assert one.scale == other.scale
            assert one.offset == other.offset


def test_affine_is_what_turns_ranges_into_scales(config, solve):
    c = solve(config("percentile", False, percentile=1.0), np.float32([-1.0, 0.5, 4.1]))
    assert [float(v) for v in affine(-1.0, np.float32(4.1), c)] == [float(c.scale), float(c.offset)]
