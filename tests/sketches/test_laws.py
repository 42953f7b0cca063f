"""The laws that every sketch keeps: what is seen decides its bytes, never the order or the batches."""

from functools import partial, reduce

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibrant.core import IncompatibleSketches
from calibrant.sketches import Collector, Extremes, Histogram, LogBins, Margins, SketchSpec, TensorSketch, margins

EVERYTHING = SketchSpec(mantissa_bits=9, channel_axis=1, per_channel=True, channel_mantissa_bits=5, isotone_axis=-1)


def collected(x, spec):
    collector = Collector(spec)
    collector.add(x)
    return collector.sketch()


# Name: (sketch of an array (n, 3, 4), sketch of nothing).
STATISTICS = {
    "extremes": (Extremes.of, Extremes.empty()),
    "extremes of channels": (partial(Extremes.of, channel_axis=1), Extremes.empty()),
    "histogram": (Histogram.of, Histogram.empty()),
    "fine histogram": (partial(Histogram.of, bins=LogBins(10)), Histogram.empty(LogBins(10))),
    "histogram of channels": (partial(Histogram.of, bins=LogBins(6), channel_axis=-1), Histogram.empty(LogBins(6))),
    "margins": (partial(Margins.of, axis=-1), Margins.empty(-1)),
    "margins of columns": (partial(Margins.of, axis=1), Margins.empty(1)),
    "margins of channels": (partial(Margins.of, axis=2, channel_axis=1), Margins.empty(2)),
    "tensor sketch": (partial(TensorSketch.of, spec=EVERYTHING), TensorSketch.empty(EVERYTHING)),
    "collector": (partial(collected, spec=EVERYTHING), Collector(EVERYTHING).sketch()),
}

SPECIAL = np.float32([0.0, -0.0, 1.0, 1.0, 6.0, -6.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38])
values = st.one_of(
    st.sampled_from(SPECIAL.view(np.uint32).tolist()),
    st.integers(0, 2**32 - 1),
    st.floats(-8, 8, width=32).map(lambda v: int(np.float32(v).view(np.uint32))),
)
rows = st.lists(values, min_size=12, max_size=12)
batches = st.lists(st.lists(rows, max_size=3), min_size=1, max_size=5).map(
    lambda many: [np.array(batch, np.uint32).view(np.float32).reshape(-1, 3, 4) for batch in many]
)
law = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


COARSENED = [name for name in STATISTICS if "margins" in name or name == "tensor sketch"]


@pytest.fixture(params=[*STATISTICS, *(f"{name}, coarsened" for name in COARSENED)])
def statistic(request, monkeypatch):
    """A row of the table; coarsened: with room for three cells of margins."""
    name, *coarsened = request.param.split(", ")
    if coarsened:
        monkeypatch.setattr(margins, "LIMIT", 3)
    return STATISTICS[name]


def fold(parts, empty):
    return reduce(lambda a, b: a.merge(b), parts, empty)


def same(one, other):
    return one.to_bytes() == other.to_bytes() and one == other


@law
@given(batches=batches, cut=st.integers(0, 5))
def test_merging_batches_equals_one_pass(statistic, batches, cut):
    of, empty = statistic
    parts = [of(batch) for batch in batches]
    whole = of(np.concatenate(batches))
    assert same(fold(parts, empty), whole)
    assert same(fold(parts[:cut], empty).merge(fold(parts[cut:], empty)), whole)


@law
@given(batches=batches)
def test_merge_is_commutative_and_associative(statistic, batches):
    of, _ = statistic
    a, b, c = (of(batches[i % len(batches)]) for i in range(3))
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))


@law
@given(batches=batches)
def test_empty_is_neutral(statistic, batches):
    of, empty = statistic
    a = of(batches[0])
    assert same(a.merge(empty), a)
    assert same(empty.merge(a), a)
    assert same(of(np.zeros((0, 3, 4), np.float32)), empty)


@law
@given(batches=batches, seed=st.integers(0, 99))
def test_order_makes_no_difference(statistic, batches, seed):
    of, _ = statistic
    whole = np.concatenate(batches)
    assert same(of(whole[np.random.default_rng(seed).permutation(len(whole))]), of(whole))


@law
@given(batches=batches, value=st.floats(1, 8, width=32))
def test_more_values_give_another_sketch(statistic, batches, value):
    of, _ = statistic
    more = np.full((1, 3, 4), value, np.float32)
    assert of(np.concatenate([*batches, more])) != of(np.concatenate(batches))


def test_what_the_laws_would_catch():
    """A sum of floats depends on the order: a sketch that held one would fail here."""
    x = np.float32([1e8, 1, -1e8, 1])
    assert reduce(np.add, x) != reduce(np.add, x[[0, 2, 1, 3]])


FOUR = np.float32([[1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        (Histogram.of(FOUR, LogBins(8)), Histogram.of(FOUR, LogBins(9)), "mantissa_bits 8 and 9"),
        (Histogram.empty(LogBins(8)), Histogram.empty(LogBins(9)), "mantissa_bits 8 and 9"),
        (Histogram.of(FOUR), Histogram.of(FOUR, channel_axis=1), "channels 1 and 4"),
        (Extremes.of(FOUR), Extremes.of(FOUR, channel_axis=1), "channels 1 and 4"),
        (Margins.of(FOUR, -1), Margins.of(FOUR, 0), "axis -1 and 0"),
        (Margins.empty(-1), Margins.empty(0), "axis -1 and 0"),
        (Margins.of(FOUR, 0), Margins.of(FOUR, 0, channel_axis=1), "channels 1 and 4"),
        (TensorSketch.empty(), TensorSketch.empty(SketchSpec(histogram=False)), "histogram True and False"),
        (TensorSketch.empty(), TensorSketch.empty(EVERYTHING), "mantissa_bits 8 and 9, channel_axis None and 1"),
    ],
)
def test_different_settings_are_refused(one, other, named):
    with pytest.raises(IncompatibleSketches, match=named):
        one.merge(other)
    with pytest.raises(IncompatibleSketches):
        other.merge(one)
