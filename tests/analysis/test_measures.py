"""sqnr_db: the ratio, and what has none."""

import numpy as np
import pytest

from calibrant.analysis import sqnr_db


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
