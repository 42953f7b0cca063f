"""LogBins: keys, edges and places within a bin."""

import numpy as np
import pytest

from calibrant.core import SettingError
from calibrant.sketches import LogBins

EDGES = np.float32([0, -0.0, 1e-45, 1.1754942e-38, 1.1754944e-38, 0.99999994, 1, 1.0000001, 6, 3.4028235e38])
BITS = [1, 6, 8, 10, 12]


def samples(seed=0, n=20_000):
    raw = np.random.default_rng(seed).integers(0, 2**32, n, np.uint32).view(np.float32)
    values = np.concatenate([raw[np.isfinite(raw)], EDGES, -EDGES])
    return values, np.sort(values)


@pytest.mark.parametrize("bits", BITS)
def test_value_lies_in_its_bin(bits):
    bins, (x, _) = LogBins(bits), samples()
    keys = bins.keys(x)
    assert (bins.lower(keys) <= x).all()
    assert (x <= bins.upper(keys)).all()
    normal = np.abs(x) >= np.finfo(np.float32).tiny
    width = bins.upper(keys) - bins.lower(keys)
    assert (width[normal] <= 2.0**-bits * np.abs(x[normal].astype(np.float64))).all()


@pytest.mark.parametrize("bits", BITS)
def test_keys_ascend_with_the_value(bits):
    keys = LogBins(bits).keys(samples()[1])
    assert (np.diff(keys.astype(np.int64)) >= 0).all()


@pytest.mark.parametrize("bits", BITS)
def test_edges_meet_and_open_their_own_bin(bits):
    bins = LogBins(bits)
    keys = np.unique(np.concatenate([bins.keys(samples()[0]), [0, -1, bins.magnitude_keys - 1]]))
    np.testing.assert_array_equal(bins.upper(keys), bins.lower(keys + 1))
    positive = keys[keys >= 0]
    np.testing.assert_array_equal(bins.keys(bins.lower(positive)), positive)
    np.testing.assert_array_equal(bins.keys(bins.upper(keys[keys < -1])), keys[keys < -1])
    assert bins.upper(bins.magnitude_keys - 1) == 2.0**128
    assert bins.lower(0) == bins.upper(-1) == 0


@pytest.mark.parametrize("bits", BITS)
def test_sub_is_the_place_in_the_bin(bits):
    bins, (x, _) = LogBins(bits), samples()
    keys = bins.keys(x)
    low, high = bins.lower(keys), bins.upper(keys)
    near = np.where(keys >= 0, low, -high)  # towards zero
    place = (np.abs(x.astype(np.float64)) - near) / (high - low)
    np.testing.assert_array_equal(bins.sub(x), np.floor(place * 256))


@pytest.mark.parametrize("bits", [0, 13, -1, 8.0, "8"])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(SettingError, match="mantissa_bits must be an integer from 1 to 12"):
        LogBins(bits)
