"""Each sketch against plain numpy on the raw values."""

import numpy as np
import pytest

from calibrant.core import DataError, SettingError
from calibrant.sketches import Extremes, Histogram, LogBins, Margins, SketchSpec, TensorSketch, margins


def distributions(n=50_000):
    rng = np.random.default_rng(3)
    normal = rng.normal(size=n)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(4 * normal, 0, 6),
        "student-t": rng.standard_t(2, n),
        "lognormal": np.exp(3 * normal),
        "negative": -np.abs(normal),
        "constant": np.full(n, 1 / 3),
        "pixels": rng.integers(0, 256, n) / 255,
        "masked": np.where(rng.random(n) < 0.3, np.finfo(np.float32).min, normal),
        "anything": rng.integers(0, 2**32, n, np.uint32).view(np.float32),
    }


DATA = {name: x.astype(np.float32) for name, x in distributions().items()}


@pytest.fixture(params=DATA)
def x(request):
    return DATA[request.param]


@pytest.mark.parametrize("bits", [6, 8, 10, 12])
def test_histogram_equals_unique_keys(x, bits):
    bins, finite = LogBins(bits), x[np.isfinite(x)]
    found = Histogram.of(x, bins)
    keys, inverse, counts = np.unique(bins.keys(finite), return_inverse=True, return_counts=True)
    positions = np.zeros(len(keys), np.int64)
    np.add.at(positions, inverse, bins.sub(finite))
    np.testing.assert_array_equal(found.keys, keys)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.positions, positions)
    assert (found.channels, found.size, set(found.channel.tolist())) == (1, len(finite), {0})
    assert [a.dtype for a in (found.channel, found.keys, found.counts, found.positions)] == ["i4", "i4", "i8", "i8"]


def test_extremes_equal_numpy(x):
    finite, found = x[np.isfinite(x)], Extremes.of(x)
    assert found.lo.tolist() == [finite.min()]
    assert found.hi.tolist() == [finite.max()]
    assert found.n_lo.tolist() == [(finite == finite.min()).sum()]
    assert found.n_hi.tolist() == [(finite == finite.max()).sum()]
    assert (found.size, found.finite, found.zeros) == (x.size, finite.size, (x == 0).sum())
    assert (found.nan, found.pos_inf, found.neg_inf) == (np.isnan(x).sum(), (x == np.inf).sum(), (x == -np.inf).sum())


@pytest.mark.parametrize("shape", [(5, 10, 1000), (50, 1000), (1000, 50), (10, 4, 5, 250), (25, 2000, 1)])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", ["normal", "relu6", "anything"])
def test_each_channel_equals_that_channel_alone(shape, place, name):
    x = DATA[name].reshape(shape)
    axis = {"first": 0, "middle": len(shape) // 2, "last": -1}[place]
    extremes, histogram = Extremes.of(x, axis), Histogram.of(x, LogBins(6), axis)
    channels = np.moveaxis(x, axis, 0)
    assert extremes.channels == histogram.channels == len(channels)
    for c in range(0, len(channels), max(len(channels) // 7, 1)):
        alone = Extremes.of(channels[c])
        found = extremes.lo[c], extremes.hi[c], extremes.n_lo[c], extremes.n_hi[c]
        assert found == (alone.lo[0], alone.hi[0], alone.n_lo[0], alone.n_hi[0])
        assert histogram.channel_of(c) == Histogram.of(channels[c], LogBins(6))
    assert extremes.per_tensor() == Extremes.of(x)
    assert histogram.total == Histogram.of(x, LogBins(6))


def test_channel_without_finite_values():
    x = np.float32([[np.nan, 1], [np.inf, 2]])
    extremes = Extremes.of(x, 1)
    assert (extremes.lo.tolist(), extremes.hi.tolist()) == ([np.inf, 1], [-np.inf, 2])
    assert extremes.n_lo.tolist() == [0, 1]
    assert extremes.per_tensor() == Extremes.of(x)
    histogram = Histogram.of(x, channel_axis=1)
    assert (histogram.channels, histogram.channel_of(0).size, histogram.channel_of(1).size) == (2, 0, 2)
    with pytest.raises(IndexError, match="channel 2 of a Histogram with 2 channels"):
        histogram.channel_of(2)


def test_counts_beyond_float32_do_not_stall():
    assert np.float32(2**24) + 1 == np.float32(2**24)  # the trap is real...
    one, many = Histogram.of(np.float32([1])), Histogram.of(np.ones(2**20, np.float32))
    for _ in range(5):
        many = many.merge(many)
    assert many.merge(one).counts.tolist() == [2**25 + 1]  # ...and avoided


def exact_margins(x, axis):
    """(top, second): rows, tied, single; by sorting."""
    rows = np.sort(np.moveaxis(np.where(x == 0, 0, x), axis, -1).reshape(-1, x.shape[axis]), axis=1)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if x.shape[axis] == 1:
        return {}, 0, len(rows)
    tied = rows[:, -1] == rows[:, -2]
    cells, counts = np.unique(rows[~tied][:, [-1, -2]], axis=0, return_counts=True)
    return dict(zip(map(tuple, cells.tolist()), counts.tolist(), strict=True)), int(tied.sum()), 0


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(20, 50, 50), (50, 20, 50), (50, 50, 20), (1, 100, 500), (500, 100, 1)])
@pytest.mark.parametrize("name", ["normal", "relu6", "pixels", "anything"])
def test_margins_equal_sorting(axis, shape, name):
    x = DATA[name].reshape(shape)
    found, (cells, tied, single) = Margins.of(x, axis), exact_margins(x, axis)
    pairs = zip(found.values(found.top).tolist(), found.values(found.second).tolist(), strict=True)
    assert dict(zip(pairs, found.counts.tolist(), strict=True)) == cells
    assert (found.mantissa_bits, found.tied.tolist(), found.single.tolist()) == (23, [tied], [single])
    assert found.rows == sum(cells.values()) + tied + single


@pytest.mark.parametrize(("axis", "channel_axis"), [(2, 1), (0, -1), (1, 0), (-1, 0)])
def test_margins_of_each_channel(axis, channel_axis):
    x = DATA["pixels"].reshape(40, 50, 25)
    found = Margins.of(x, axis, channel_axis)
    for c, part in enumerate(np.moveaxis(x, channel_axis, 0)):
        alone = Margins.of(np.expand_dims(part, channel_axis), axis)
        mine = found.channel == c
        np.testing.assert_array_equal(found.top[mine], alone.top)
        np.testing.assert_array_equal(found.second[mine], alone.second)
        np.testing.assert_array_equal(found.counts[mine], alone.counts)
        assert found.tied[c] == alone.tied[0]


def test_margins_are_coarsened_only_as_far_as_needed(monkeypatch):
    x = DATA["student-t"].reshape(-1, 5)
    exact = Margins.of(x)
    monkeypatch.setattr(margins, "LIMIT", 100)
    coarse = Margins.of(x)
    assert coarse.mantissa_bits < 23
    assert len(coarse.counts) <= 100
    assert coarse.rows == exact.rows == len(x)
    assert len(exact._coarsened(coarse.mantissa_bits + 1).counts) > 100
    folded = [Margins.of(part) for part in np.array_split(x, 13)]
    for part in folded[1:]:
        folded[0] = folded[0].merge(part)
    assert folded[0] == coarse


def test_margins_that_just_fit_are_not_coarsened(monkeypatch):
    x = DATA["student-t"].reshape(-1, 5)
    cells = len(Margins.of(x)._coarsened(6).counts)
    monkeypatch.setattr(margins, "LIMIT", cells)
    assert Margins.of(x).mantissa_bits == 6
    monkeypatch.setattr(margins, "LIMIT", cells - 1)
    assert Margins.of(x).mantissa_bits == 5


def test_margins_values_lie_in_their_cell(monkeypatch):
    monkeypatch.setattr(margins, "LIMIT", 1)
    x = np.float32([[1, -1], [1.5, -1.25], [3, 0], [-1e-45, -3e38]])
    coarse = Margins.of(x)
    values = coarse.values(coarse.top)
    assert np.isfinite(values).all()
    assert (np.abs(values) <= np.finfo(np.float32).max).all()


def test_margins_refuse_a_row_across_all_channels():
    with pytest.raises(SettingError, match="isotone_axis and channel_axis are both axis 1"):
        Margins.of(np.ones((2, 3)), axis=-1, channel_axis=1)


@pytest.mark.parametrize(
    "of",
    [
        lambda x: Extremes.of(x, 2),
        lambda x: Extremes.of(x, -3),
        lambda x: Histogram.of(x, channel_axis=2),
        lambda x: Margins.of(x, 2),
        lambda x: Margins.of(x, 0, 2),
    ],
)
def test_axis_that_the_tensor_lacks(of):
    with pytest.raises(DataError, match=r"axis -?[23] does not fit a tensor of shape \[2, 2\]"):
        of(np.ones((2, 2)))


def test_tensor_sketch_holds_what_the_spec_asks_for():
    x = DATA["normal"].reshape(10, 50, 100)
    bare = TensorSketch.of(x, SketchSpec(histogram=False))
    assert (bare.histogram, bare.channel_histogram, bare.margins) == (None, None, None)
    spec = SketchSpec(channel_axis=1, per_channel=True, isotone_axis=2)
    full = TensorSketch.of(x, spec)
    assert full.extremes == Extremes.of(x, 1)
    assert full.histogram == Histogram.of(x, LogBins(8))
    assert full.channel_histogram == Histogram.of(x, LogBins(6), 1)
    assert full.margins == Margins.of(x, 2, 1)
    along_channels = TensorSketch.of(x, SketchSpec(channel_axis=2, per_channel=True, isotone_axis=-1))
    assert along_channels.margins == Margins.of(x, -1)


def test_sketches_of_different_kinds_are_not_equal():
    assert Extremes.empty() != Histogram.empty()
    assert Extremes.empty() != "Extremes"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Extremes.empty())
