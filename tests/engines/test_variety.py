"""Samples that do not vary are passed on, and warned of."""

import logging

import numpy as np
import pytest

from calibrant.engines.variety import watched

RNG = np.random.default_rng(2)
ROW = RNG.normal(size=(1, 3)).astype(np.float32)
OTHER = ROW * np.float32([1, 1, 2])
ZEROS, ONES = np.zeros((1, 2), np.float32), np.ones((1, 2), np.int64)
TEXT = np.array([["a"]], object)

ALIKE = "all samples are alike"
ZERO = "input 'x' is 0 in all samples"


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([{"x": ROW}, {"x": OTHER}], []),
        ([{"x": ROW}, {"x": ROW}, {"x": OTHER}], []),
        ([{"x": ROW}, {"x": ROW}], [ALIKE]),
        ([{"x": ROW.repeat(4, axis=0)}], [ALIKE]),
        ([{"x": np.concatenate([ROW, OTHER])}] * 2, []),
        ([{"x": ROW}], []),
        ([{"x": ZEROS}, {"x": ZEROS}], [ZERO]),
        ([{"x": ZEROS}, {"x": np.zeros((1, 5), np.float32)}], [ZERO]),
        ([{"x": ZEROS}, {"x": ZEROS + 1}], []),
        ([{"x": ZEROS, "y": ROW}, {"x": ZEROS, "y": OTHER}], [ZERO]),
        ([{"x": ZEROS, "y": ROW}, {"x": ZEROS, "y": ROW}], [ZERO, ALIKE]),
        ([{"m": ONES, "y": ROW}, {"m": ONES, "y": OTHER}], []),
        ([{"m": ONES}, {"m": ONES}], [ALIKE]),
        ([{"t": TEXT}, {"t": TEXT}], [ALIKE]),
        ([{"s": np.float32(2), "y": ROW}, {"s": np.float32(2), "y": OTHER}], ["input 's' is 2 in all samples"]),
        ([{"e": ROW[:0], "y": ROW}, {"e": ROW, "y": ROW}], []),
        ([], []),
    ],
)
def test_what_does_not_vary_is_said(samples, words, caplog):
    with caplog.at_level(logging.WARNING):
        passed = list(watched(iter(samples)))
    assert all(a is b for a, b in zip(passed, samples, strict=True))
    assert len(caplog.messages) == len(words)
    assert all(message.startswith(word) for message, word in zip(caplog.messages, words, strict=True))
