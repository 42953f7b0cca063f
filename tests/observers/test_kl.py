"""kl against the published procedure, written out slowly, on the rebinned sketch and on the raw values."""

import logging

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibrant.core import ConfigError
from calibrant.observers import Distribution
from calibrant.observers.kernels import entropy

BINS = entropy.BINS


def slow_divergence(counts, first, last, levels):
    """KL(P || Q) of the bins first <= i < last: P with what lies beyond added to its end bins, Q merged into `levels`
    groups and spread back over the bins that are not empty, without what lies beyond."""
    inside = counts[first:last].astype(np.float64)
    if inside.sum() == 0:
        return np.inf
    reference = inside.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    candidate = np.zeros_like(inside)
    groups = np.minimum(np.arange(len(inside)) * levels // len(inside), levels - 1)
    for group in np.unique(groups):
        members = (groups == group) & (inside > 0)
        if members.any():
            candidate[members] = inside[groups == group].sum() / members.sum()
    reference, candidate = reference / reference.sum(), candidate / candidate.sum()
    there = reference > 0
    return float(np.sum(reference[there] * np.log(reference[there] / np.maximum(candidate[there], 1e-12))))


def raw_counts(x):
    """Of |x| in 2048 bins over [0, max]; the first bin has its neighbour's count."""
    magnitudes = np.abs(x.astype(np.float64))
    counts = np.histogram(magnitudes, BINS, (0, magnitudes.max()))[0].astype(np.float64)
    counts[0] = counts[1]
    return counts


def raw_counts_of_both_signs(x):
    """Of x in 2048 bins over its range with 0; the bin of 0 has its neighbour's count, or the mean of both."""
    lo, hi = min(x.min(), 0.0), max(x.max(), 0.0)
    counts = np.histogram(x.astype(np.float64), BINS, (lo, hi))[0].astype(np.float64)
    zero = min(int(-lo / (hi - lo) * BINS), BINS - 1)
    around = [counts[i] for i in (zero - 1, zero + 1) if 0 <= i < BINS]
    counts[zero] = np.rint(np.mean(around))
    return counts, zero


@numba.njit
def symmetric_curve(sums, levels):
    """The divergence of keeping the first i bins, for every i; inf below `levels`."""
    curve = np.full(BINS + 1, np.inf)
    for i in range(levels, BINS + 1):
        curve[i] = entropy.divergence(sums, 0, i, levels)
    return curve


@numba.njit
def least_of_windows(sums, zero, levels, step):
    """By exhaustive search: the least divergence of the windows whose ends are multiples of `step`, and hold half."""
    least, total = np.inf, sums.values[-1]
    for first in range(0, zero + 1, step):
        for last in range(BINS, zero, -step):
            if last - first >= levels and sums.values[last] - sums.values[first] >= 0.5 * total:
                least = min(least, entropy.divergence(sums, first, last, levels))
    return least


@pytest.fixture(scope="session")
def rebinned(data, sketches):
    """rebinned(name): the counts of |x| that kl works on."""

    def counts_of(name):
        d = Distribution.of(sketches[name].histogram, sketches[name].extremes)
        return entropy.symmetric_counts(d.pos, d.neg, d.zeros, float(np.abs(data[name]).max()))

    return counts_of


@pytest.mark.parametrize("levels", [128, 8])
def test_the_curve_is_the_published_one(name, levels, rebinned):
    counts = rebinned(name)
    curve = symmetric_curve(entropy.make_sums(counts), levels)
    assert np.isinf(curve[:levels]).all()
    tried = np.unique(np.concatenate([np.arange(levels, BINS + 1, 23), [levels, BINS, int(curve.argmin())]]))
    slow = [slow_divergence(counts, 0, i, levels) for i in tried]
    np.testing.assert_allclose(curve[tried], slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["student", "relu6"])
def test_the_threshold_is_where_the_whole_slow_curve_is_least(kind, data, rebinned, sketches, config, solve):
    counts = rebinned(kind)
    slow = np.array([slow_divergence(counts, 0, i, 128) for i in range(128, BINS + 1)])
    threshold = (128 + slow.argmin()) / BINS * float(np.abs(data[kind]).max())
    assert float(solve(config("kl"), sketches[kind]).scale) == pytest.approx(2 * threshold / 255, rel=1e-6)


def test_the_rebinned_counts_are_whole_and_complete(name, data, rebinned):
    counts, raw = rebinned(name), raw_counts(data[name])
    assert (counts == np.rint(counts)).all()
    assert (counts >= 0).all()
    assert abs(counts[1:].sum() - raw[1:].sum()) <= 1 + 0.01 * raw[0]
    assert np.abs(np.cumsum(counts - raw)).max() <= 0.005 * raw.sum()


COUNTS = st.one_of(
    hnp.arrays(np.int64, BINS, elements=st.integers(0, 1000), fill=st.just(0)),
    hnp.arrays(np.int64, BINS, elements=st.integers(0, 10**9), fill=st.just(3)),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).poisson(2e4 * np.geomspace(1, 1e-5, BINS))),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(0, 9, BINS) * 10**8),
)
no_deadline = settings(max_examples=60, deadline=None)


@no_deadline
@given(counts=COUNTS, levels=st.sampled_from([2, 16, 63, 64, 100, 128, 256]))
def test_the_threshold_is_where_the_whole_curve_is_least(counts, levels):
    counts[0] += 1  # a histogram of something
    sums = entropy.make_sums(counts.astype(np.float64))
    assert entropy.best_top(sums, levels) == symmetric_curve(sums, levels).argmin()


@no_deadline
@given(counts=COUNTS, levels=st.sampled_from([64, 100, 128, 255, 256]), data=st.data())
def test_the_quick_divergence_is_the_divergence(counts, levels, data):
    """Or tells, rightly, that it is more than enough."""
    counts[0] += 1
    sums = entropy.make_sums(counts.astype(np.float64))
    groups = entropy.make_groups(sums, levels)
    for _ in range(5):
        first = data.draw(st.integers(0, BINS - levels))
        last = data.draw(st.integers(first + levels, BINS))
        exact = entropy.divergence(sums, first, last, levels)
        assert entropy.quick_divergence(sums, groups, first, last, levels, np.inf) == pytest.approx(
            exact, rel=0, abs=entropy.NEAR / 10
        )
        enough = exact * data.draw(st.floats(0.1, 1.1))
        quick = entropy.quick_divergence(sums, groups, first, last, levels, enough)
        assert exact >= enough - entropy.NEAR if quick == np.inf else abs(quick - exact) <= entropy.NEAR / 10


@no_deadline
@given(counts=COUNTS, levels=st.sampled_from([16, 64, 256]), data=st.data())
def test_windows_are_scanned_as_if_one_by_one(counts, levels, data):
    counts[0] += 1
    sums = entropy.make_sums(counts.astype(np.float64))
    groups = entropy.make_groups(sums, levels)
    low, step, left = (data.draw(st.integers(*ends)) for ends in ((0, 900), (25, 99), (1000, BINS)))
    best = np.inf, low, BINS
    for first in range(low, 1000, step):
        for last in range(BINS, left - 1, -step):
            inside = sums.values[last] - sums.values[first]
            if last - first >= levels and inside >= entropy.LEAST_INSIDE * sums.values[-1]:
                kl = entropy.divergence(sums, first, last, levels)
                best = (kl, first, last) if kl < best[0] else best
    assert entropy._scan(sums, groups, low, 999, step, left, BINS, step, levels) == best


@pytest.mark.parametrize("bits", [4, 8])
def test_on_the_raw_values_the_threshold_is_as_good(name, bits, data, sketches, config, solve):
    levels = 1 << (bits - 1)
    c = solve(config("kl", bits=bits), sketches[name])
    sums = entropy.make_sums(raw_counts(data[name]))
    curve = symmetric_curve(sums, levels)
    threshold = float(c.scale) * (2 * levels - 1) / 2
    kept = int(np.rint(threshold / float(np.abs(data[name]).max()) * BINS))
    assert curve[kept] <= 1.15 * curve.min() + 1e-12


@pytest.mark.parametrize("kind", ["normal", "spiked_3", "negative"])
def test_windows_are_measured_by_the_same_divergence(kind, data, sketches):
    d = Distribution.of(sketches[kind].histogram, sketches[kind].extremes)
    counts, zero = entropy.asymmetric_counts(d.pos, d.neg, d.zeros, min(d.lo, 0.0), max(d.hi, 0.0))
    sums = entropy.make_sums(counts)
    rng = np.random.default_rng(0)
    for levels in (16, 256):
        for _ in range(60):
            first, last = rng.integers(0, zero + 1), rng.integers(zero + 1, BINS + 1)
            if last - first >= levels:
                slow = slow_divergence(counts, first, last, levels)
                assert entropy.divergence(sums, first, last, levels) == pytest.approx(slow, rel=1e-9, abs=1e-12)


def window_divergence(x, c, i=()):
    """The divergence of the window that scale and offset of `c` stand for, by the raw values.

    A whole offset moves the window by up to half a step: the best of the windows within half a step is the one meant.
    """
    counts, zero = raw_counts_of_both_signs(x)
    sums, width = entropy.make_sums(counts), (max(x.max(), 0.0) - min(x.min(), 0.0)) / BINS
    scale, offset = float(c.scale[i]), float(c.offset[i])
    start = round(((c.quant_min - offset) * scale - min(x.min(), 0.0)) / width)
    length, slack = round((c.levels - 1) * scale / width), int(np.ceil(scale / 2 / width))
    firsts = range(max(start - slack, 0), min(start + slack, zero) + 1)
    ends = [min(max(first + length, zero + 1), BINS) for first in firsts]
    return min(entropy.divergence(sums, first, end, c.levels) for first, end in zip(firsts, ends, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
def test_both_ends_are_searched(name, bits, data, sketches, config, solve):
    """On the raw values, against every window with ends at every 16th edge."""
    c = solve(config("kl", False, bits), sketches[name])
    counts, zero = raw_counts_of_both_signs(data[name])
    least = least_of_windows(entropy.make_sums(counts), zero, 1 << bits, 16)
    assert window_divergence(data[name], c) <= 1.15 * least


def test_a_gap_next_to_zero_is_told(data, sketches, config, solve, caplog):
    with caplog.at_level(logging.WARNING):
        solve(config("kl"), sketches["positive"])
    assert "kl clips" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        solve(config("kl"), sketches["normal"])
        solve(config("kl", False), sketches["positive"])
    assert caplog.text == ""


@pytest.mark.parametrize("bits", [9, 16])
def test_more_than_eight_bits_are_refused_at_once(bits, config):
    from calibrant.observers import build_observer

    with pytest.raises(ConfigError, match=f"'x': kl merges 2048 bins into 2 to 8 bits, got {bits} bits"):
        build_observer(config("kl", bits=bits), "x")


@pytest.mark.parametrize("bits", [4, 8])
def test_the_best_power_of_two_is_chosen(name, bits, data, rebinned, sketches, config, solve):
    c = solve(config("kl", bits=bits, power_of_2=True), sketches[name])
    levels, top = 1 << (bits - 1), float(np.abs(data[name]).max())
    sums = entropy.make_sums(rebinned(name))
    kept = {2.0**e: int(np.rint(min(2.0**e * (levels - 0.5) / top, 1) * BINS)) for e in range(-20, 8)}
    curve = {s: entropy.divergence(sums, 0, i, levels) for s, i in kept.items() if i >= levels}
    assert curve[float(c.scale)] == min(curve.values())


@pytest.mark.parametrize("kind", ["normal", "student", "relu6", "bimodal"])
def test_the_best_power_of_two_and_its_offset(kind, data, sketches, config, solve):
    c = solve(config("kl", False, 6, power_of_2=True), sketches[kind])
    assert np.log2(float(c.scale)) % 1 == 0
    counts, zero = raw_counts_of_both_signs(data[kind])
    sums, span = entropy.make_sums(counts), max(data[kind].max(), 0.0) - min(data[kind].min(), 0.0)
    lengths = [int(np.rint(min(2.0**e * 63 / span, 1) * BINS)) for e in range(-12, 5)]
    least = min(
        entropy.divergence(sums, first, first + length, 64)
        for length in lengths
        if length >= 64
        for first in range(max(zero + 1 - length, 0), min(zero, BINS - length) + 1)
    )
    assert window_divergence(data[kind], c) <= 1.15 * least


@pytest.mark.parametrize("symmetric", [True, False])
def test_per_channel_is_each_channel_alone(symmetric, make_data, config, solve):
    """Each channel's divergence, by its raw values, against that of the channel solved alone: for four of five channels
    at most 15 % above, for all at most 4 times as much. (Whether the one linear bin where the range ends is empty makes
    that difference, and the coarser bins per channel tell it for some bins only.)"""
    names = ("normal", "relu", "student", "lognormal", "uniform", "bimodal", "relu6", "spiked_0.7", "spiked_3")
    values = make_data(size=50_000)
    channels = np.stack([values[name] for name in names])
    together = solve(config("kl", symmetric, axis=0), channels)
    ratios = []
    for c, x in enumerate(channels):
        alone = solve(config("kl", symmetric), x)
        if symmetric:
            sums, top = entropy.make_sums(raw_counts(x)), float(np.abs(x).max())
            kept = [int(np.rint(float(s) * 127.5 / top * BINS)) for s in (together.scale[c], alone.scale)]
            one, other = (entropy.divergence(sums, 0, i, 128) for i in kept)
        else:
            one, other = window_divergence(x, together, c), window_divergence(x, alone)
        ratios.append(one / other)
    assert np.quantile(ratios, 0.8) <= 1.15
    assert max(ratios) <= 4
