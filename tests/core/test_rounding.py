"""The seven rounding policies, by hand and against decimal arithmetic."""

from decimal import ROUND_CEILING, ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.core import RoundingPolicy as R
from calibrant.core.rounding import round_array

POINTS = [-2.5, -1.5, -0.5, -0.3, 0.3, 0.5, 1.5, 2.5, 2.6]
HAND = {
    R.ROUND_HALF_EVEN: [-2, -2, 0, 0, 0, 0, 2, 2, 3],
    R.ROUND_HALF_UP: [-2, -1, 0, 0, 0, 1, 2, 3, 3],
    R.ROUND_HALF_DOWN: [-3, -2, -1, 0, 0, 0, 1, 2, 3],
    R.ROUND_HALF_TOWARDS_ZERO: [-2, -1, 0, 0, 0, 0, 1, 2, 3],
    R.ROUND_HALF_FAR_FORM_ZERO: [-3, -2, -1, 0, 0, 1, 2, 3, 3],
    R.ROUND_TO_NEAR_INT: [-3, -2, -1, 0, 0, 1, 2, 3, 3],
    R.ROUND_UP: [-2, -1, 0, 0, 1, 1, 2, 3, 3],
}


def _decimal(x: float, policy: R) -> int:
    away, towards = ROUND_HALF_UP, ROUND_HALF_DOWN  # decimal's UP and DOWN are away from and towards zero
    mode = {
        R.ROUND_HALF_EVEN: ROUND_HALF_EVEN,
        R.ROUND_HALF_UP: away if x >= 0 else towards,
        R.ROUND_HALF_DOWN: towards if x >= 0 else away,
        R.ROUND_HALF_TOWARDS_ZERO: towards,
        R.ROUND_HALF_FAR_FORM_ZERO: away,
        R.ROUND_TO_NEAR_INT: away,
        R.ROUND_UP: ROUND_CEILING,
    }[policy]
    return int(Decimal(x).quantize(Decimal(1), rounding=mode))


@pytest.mark.parametrize("policy", list(R))
def test_hand_made_cases(policy):
    assert round_array(POINTS, policy).tolist() == HAND[policy]


@pytest.mark.parametrize("policy", list(R))
@given(x=st.one_of(st.floats(-1e6, 1e6, width=32), st.integers(-4000, 4000).map(lambda i: i / 2)))
def test_agrees_with_decimal_arithmetic(policy, x):
    assert round_array(x, policy) == _decimal(x, policy)


def test_the_largest_float_below_a_half_is_not_rounded_up():
    below = np.float32(0.49999997)
    assert below + np.float32(0.5) == 1.0  # the trap is real in float32...
    assert round_array(below, R.ROUND_HALF_UP) == 0.0  # ...and we avoid it


def test_shape_is_kept_and_non_finite_values_stay():
    assert round_array(np.zeros((2, 0, 3), np.float32)).shape == (2, 0, 3)
    assert np.isnan(round_array(np.nan))
    assert round_array(-np.inf, R.ROUND_UP) == -np.inf
