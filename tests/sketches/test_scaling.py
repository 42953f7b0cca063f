"""The sketch of a divided value, from the sketch of the value."""

import numpy as np
import pytest

from calibrant.core import QuantizationProperty as P
from calibrant.core import TensorQuantizationConfig
from calibrant.observers import Distribution, build_observer, squared_error
from calibrant.sketches import Extremes, SketchSpec, TensorSketch
from calibrant.sketches.scaling import divided

SPEC = SketchSpec(channel_axis=1, per_channel=True, channel_mantissa_bits=1)
RNG = np.random.default_rng(1)
FACTORS = 2.0 ** RNG.uniform(-4, 4, 64)
X = (RNG.normal(0.3, 1, (40, 64, 30)) * FACTORS[None, :, None]).astype(np.float32)
Y = (X / FACTORS[None, :, None]).astype(np.float32)


def test_extremes_are_exact_and_nothing_is_lost():
    found = divided(TensorSketch.of(X, SPEC), FACTORS)
    exact = Extremes.of(Y, 1)
    np.testing.assert_array_equal([found.extremes.lo, found.extremes.hi], [exact.lo, exact.hi])
    assert found.histogram.size == X.size
    assert found.extremes.finite == X.size


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "kl"])
@pytest.mark.parametrize("symmetry", [P.SYMMETRICAL, P.ASYMMETRICAL])
def test_scales_are_as_good_as_those_of_the_divided_values(method, symmetry):
    def error(sketch):
        config = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | symmetry, observer_algorithm=method)
        build_observer(config).render_from(sketch)
        return squared_error(config, TensorSketch.of(Y, SketchSpec()))[0]

    assert error(divided(TensorSketch.of(X, SPEC), FACTORS)) < 1.05 * error(TensorSketch.of(Y, SketchSpec()))


def test_without_histograms_there_are_extremes():
    found = divided(TensorSketch.of(X, SketchSpec(channel_axis=1)), FACTORS)
    assert found.histogram is None
    assert not found.spec.histogram
    assert found.extremes.hi.max() == Y.max()


def test_halves_divide_and_merge_alike():
    parts = [divided(TensorSketch.of(half, SPEC), FACTORS) for half in (X[:15], X[15:])]
    merged, whole = parts[0].merge(parts[1]), divided(TensorSketch.of(X, SPEC), FACTORS)
    assert merged.extremes == whole.extremes
    assert merged.histogram.size == whole.histogram.size


def test_a_constant_channel_and_zeros_stay_what_they_are():
    x = np.zeros((4, 3, 5), np.float32)
    x[:, 1] = -6
    found = divided(TensorSketch.of(x, SPEC), np.array([2.0, 3.0, 4.0]))
    assert set(zip(found.histogram.keys, found.histogram.counts, strict=True)) == {
        (found.histogram.bins.keys(-2.0).item(), 20),
        (0, 40),
    }


@pytest.mark.parametrize("sign", [1, -1])
def test_a_value_that_many_elements_end_at_stays_that_value(sign):
    """Clipped values: spread over their coarse cell like the others, they would miss there and be found at the end."""
    x = sign * np.clip(np.random.default_rng(2).normal(6, 3, (40, 4, 500)), 0, 5).astype(np.float32)
    factors = np.array([0.5, 2, 2, 2])
    y = (x / factors[:, None]).astype(np.float32)
    found, exact = divided(TensorSketch.of(x, SPEC), factors), TensorSketch.of(y)
    seen, true = (Distribution.of(s.histogram, s.extremes.per_tensor()) for s in (found, exact))
    assert seen.count([-20, 20]).tolist() == [0, x.size]
    assert found.extremes == Extremes.of(y, 1)
    for p in (0.05, 0.5, 0.95, 0.99):
        assert seen.quantile(p) == pytest.approx(true.quantile(p), rel=0.02)
    config = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL, observer_algorithm="mse")
    build_observer(config).render_from(found)
    told, is_so = (squared_error(config, sketch) for sketch in (found, exact))
    assert told == pytest.approx(is_so, rel=0.05)


def test_an_end_that_underflows_is_zero():
    x = X.copy()
    x[:, 0] = -1e-45
    found = divided(TensorSketch.of(x, SPEC), np.where(np.arange(64) == 0, 4.0, FACTORS)).extremes
    assert found.lo[0] == 0
    assert not np.signbit([found.lo[0], found.hi[0]]).any()


def test_nothing_seen_gives_the_sketch_of_nothing():
    assert divided(TensorSketch.empty(SPEC), FACTORS).histogram.size == 0


def test_margins_do_not_outlive_a_division():
    with_rows = divided(TensorSketch.of(X, SketchSpec(channel_axis=1, per_channel=True, isotone_axis=1)), FACTORS)
    assert with_rows.margins is None
    assert with_rows == divided(TensorSketch.of(X, SketchSpec(channel_axis=1, per_channel=True)), FACTORS)
