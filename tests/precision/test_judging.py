"""How a model stands to its targets: where outputs are probabilities, by their logarithms too."""

import numpy as np
import pytest

from calibrant.precision.judging import least_sqnr
from calibrant.precision.scoring import mean_sqnr
from tests.arrays import softmax


def test_probabilities_that_are_sure_hide_an_error_and_their_logarithms_do_not():
    logits = np.array([[30.0, 0.0, -30.0]])
    exact, found = [[softmax(logits)]], [[softmax(logits * 0.9)]]
    assert mean_sqnr(exact, found) > 100
    assert least_sqnr(exact, found) == pytest.approx(20, abs=0.1)


def test_an_answer_that_tips_over_counts_as_well():
    exact, found = [[softmax(np.array([[4.0, 3.9]]))]], [[softmax(np.array([[3.9, 4.0]]))]]
    assert least_sqnr(exact, found) == min(mean_sqnr(exact, found), -10 * np.log10(4))


def test_other_outputs_count_as_they_are():
    exact, found = [[np.array([[3.0, 4.0]], np.float32)]], [[np.array([[3.0, 4.5]], np.float32)]]
    assert least_sqnr(exact, found) == mean_sqnr(exact, found) == pytest.approx(20)
