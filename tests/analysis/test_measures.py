"""Difference and sqnr_db: against numpy on everything at once, and what has no ratio."""

import numpy as np
import pytest

from calibrant.analysis import Difference, sqnr_db
from calibrant.analysis.measures import CHUNK


def test_powers_are_summed_over_all_arrays():
    rng = np.random.default_rng(1)
    exact = [rng.normal(size=n) for n in (3, 50, 7)]
    found = [x + rng.normal(0, 0.1, x.shape) for x in exact]
    one, other = np.concatenate(exact), np.concatenate(found)
    assert sqnr_db(exact, found) == pytest.approx(10 * np.log10((one**2).sum() / ((one - other) ** 2).sum()))


@pytest.mark.parametrize(
    ("reference", "found", "expected"),
    [
        ([], [], np.inf),
        ([[1.0]], [[1.0]], np.inf),
        ([[0.0]], [[1.0]], -np.inf),
        ([[1.0, np.nan]], [[1.0, 1.0]], np.nan),
        ([[1.0]], [[np.inf]], np.nan),
    ],
)
def test_what_has_no_ratio(reference, found, expected):
    np.testing.assert_equal(sqnr_db(reference, found), expected)


def test_they_come_in_pairs():
    with pytest.raises(ValueError, match="shorter"):
        sqnr_db([[1.0], [2.0]], [[1.0]])


def added(pairs):
    difference = Difference()
    for pair in pairs:
        difference.add(*pair)
    return difference


def test_a_difference_is_what_numpy_says_of_everything_at_once():
    rng = np.random.default_rng(2)
    shapes = [(2, 3, 5), (CHUNK + 7,), (0,), ()]
    pairs = [(x := rng.normal(size=s).astype(np.float32), x + rng.normal(0, 0.1, s).astype(np.float32)) for s in shapes]
    found = added(pairs)
    one, other = (np.concatenate([np.ravel(p[i]) for p in pairs]).astype(np.float64) for i in (0, 1))
    assert found.elements == one.size
    assert found.sqnr_db == pytest.approx(10 * np.log10((one**2).sum() / ((one - other) ** 2).sum()))
    assert found.relative == pytest.approx(10 ** (-found.sqnr_db / 10))
    assert found.mse == pytest.approx(np.mean((one - other) ** 2))
    assert found.cosine == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert found.largest == np.abs(one - other).max()


def test_sums_are_exact_where_float32_is_not():
    exact = np.full(3 * CHUNK, 4097, np.float32)
    found = exact.copy()
    found[-1] += np.float32(0.001)
    assert (exact**2).sum() != exact.size * 4097**2  # the trap is real
    difference = added([(exact, found)])
    assert difference.signal == exact.size * 4097**2
    assert difference.noise == (np.float64(found[-1]) - 4097) ** 2 > 0


@pytest.mark.parametrize(
    ("exact", "found", "broken", "mse"),
    [
        ([np.inf, 1], [np.inf, 2], 0, 0.5),
        ([-np.inf, np.nan, 1], [-np.inf, np.nan, 1], 0, 0),
        ([np.inf, 1], [-np.inf, 1], 1, np.nan),
        ([np.nan, 1], [0, 1], 1, np.nan),
        ([3.4e38, 1], [np.inf, 1], 1, np.nan),
    ],
)
def test_the_same_infinity_is_no_difference(exact, found, broken, mse):
    difference = added([(np.float32(exact), np.float32(found))])
    assert difference.broken == broken
    np.testing.assert_equal(difference.mse, mse)
    assert np.isnan([difference.sqnr_db, difference.cosine, difference.relative]).all() == bool(broken)


@pytest.mark.parametrize(
    ("exact", "found", "cosine", "relative"),
    [([], [], 1, 0), ([0], [0], 1, 0), ([0], [1], 0, np.inf), ([1], [0], 0, 1), ([2], [-2], -1, 4)],
)
def test_where_an_angle_or_a_ratio_has_no_meaning(exact, found, cosine, relative):
    difference = added([(exact, found)])
    assert (difference.cosine, difference.relative) == (cosine, relative)


def test_integers_do_not_wrap_around():
    difference = added([(np.uint8([0, 255]), np.uint8([255, 0]))])
    assert (difference.largest, difference.mse) == (255, 255**2)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and \(2, 1\)"):
        Difference().add(np.zeros(2), np.zeros((2, 1)))
