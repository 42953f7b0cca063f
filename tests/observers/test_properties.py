"""Laws that hold for any values."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibrant.core import QuantizationStates, affine
from calibrant.observers import build_observer
from calibrant.sketches import SketchSpec, TensorSketch

METHODS = ["minmax", "percentile", "mse", "kl", "isotone"]
LARGEST = float(np.finfo(np.float32).max)
FLOATS = st.one_of(
    st.floats(-LARGEST, LARGEST, width=32),
    st.floats(-10, 10, width=32),
    st.sampled_from([0.0, -0.0, 1.0, 6.0, -1e-45, 1e-38]),
)
ARRAYS = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=FLOATS)
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def solved(config, x, batches=None):
    observer = build_observer(config, "x")
    for batch in [x] if batches is None else batches:
        observer.observe(batch)
    observer.render_quantization_config()
    return config


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
@few
@given(x=ARRAYS, bits=st.integers(2, 8), power_of_2=st.booleans(), channels=st.booleans())
def test_scale_and_offset_are_valid(method, symmetric, config, x, bits, power_of_2, channels):
    if power_of_2:
        x = np.clip(x, -(2.0**126), 2.0**126)  # beyond, the next power of two is no float32
    c = solved(config(method, symmetric, bits, axis=0 if channels else None, power_of_2=power_of_2), x)
    assert c.state is QuantizationStates.ACTIVATED
    assert c.scale.shape == c.offset.shape == ((x.shape[0],) if channels else ())
    assert (np.isfinite(c.scale) & (c.scale > 0)).all()
    assert ((c.offset >= c.quant_min) & (c.offset <= c.quant_max) & (c.offset == np.rint(c.offset))).all()
    if symmetric:
        assert (c.offset == 0).all()
    if power_of_2:
        assert (np.frexp(c.scale)[0] == 0.5).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
@few
@given(x=ARRAYS, data=st.data())
def test_order_and_batches_make_no_difference(method, symmetric, config, x, data):
    order = data.draw(st.permutations(range(len(x))))
    cut = data.draw(st.integers(1, len(x)))
    batches = [b for b in (x[order[:cut]], x[order[cut:]]) if b.size]
    whole, parts = solved(config(method, symmetric), x), solved(config(method, symmetric), x, batches)
    assert whole.scale == parts.scale
    assert whole.offset == parts.offset


@few
@given(x=ARRAYS, bits=st.integers(2, 16), symmetric=st.booleans())
def test_minmax_is_exact(config, x, bits, symmetric):
    c = solved(config("minmax", symmetric, bits), x)
    scale, offset = affine(x.min(), x.max(), c)
    assert (c.scale, c.offset) == (scale, offset)


@few
@given(x=ARRAYS, symmetric=st.booleans())
def test_all_of_the_values_is_minmax(config, x, symmetric):
    """The quantile 1 is the largest value: percentile meets minmax."""
    one, other = solved(config("percentile", symmetric, percentile=1.0), x), solved(config("minmax", symmetric), x)
    assert one.scale == other.scale
    assert one.offset == other.offset


@few
@given(x=hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32)), bits=st.integers(2, 8))
def test_mse_is_never_worse_than_minmax(config, error, x, bits):
    for symmetric in (True, False):
        mse, minmax = (solved(config(method, symmetric, bits), x) for method in ("mse", "minmax"))
        assert error(x, mse) <= error(x, minmax) * 1.02 + 1e-4 * float(mse.scale) ** 2


@pytest.mark.parametrize("method", METHODS)
@few
@given(x=hnp.arrays(np.float32, (4, 30), elements=st.floats(-8, 8, width=16)), power=st.integers(-20, 20))
def test_units_make_no_difference(method, config, x, power):
    """Values twice as large get a scale twice as large: bins, like floats, are cut by octaves."""
    if not x.any() or np.abs(x[x != 0]).min() < 1e-3:
        return
    one, other = solved(config(method, False), x), solved(config(method, False), x * np.float32(2.0**power))
    assert float(other.scale) == pytest.approx(float(one.scale) * 2.0**power, rel=1e-6)
    assert one.offset == other.offset


@few
@given(parts=st.lists(ARRAYS, min_size=2, max_size=4))
def test_merged_sketches_are_solved_as_one(config, parts):
    flat = [p.reshape(-1) for p in parts]
    merged = TensorSketch.empty(SketchSpec())
    for part in flat:
        merged = merged.merge(TensorSketch.of(part, SketchSpec()))
    for method in ("minmax", "percentile", "mse", "kl"):
        c = config(method, False)
        build_observer(c).render_from(merged)
        whole = solved(config(method, False), np.concatenate(flat))
        assert (c.scale, c.offset) == (whole.scale, whole.offset)
