"""The benchmark of accuracy targets: its greedy search on a made-up model, and its halves of labelled items."""

from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.subjects import Subject
from benchmarks.targets import Labelled, Step, greedy, greedy_row
from calibrant.precision import Reached
from calibrant.precision.scoring import Score
from calibrant.settings import QuantizationSetting

GAINS = {"a": 1.0, "b": 4.0, "c": 2.0}


class Made:
    """In place of models and their judge: dB that are the sum of the gains in float; `c` takes `a` along."""

    graph = SimpleNamespace(operations=GAINS)

    def build(self, left):
        left = left | {"a"} if "c" in left else left
        self.graph = SimpleNamespace(operations=[name for name in GAINS if name not in left])

    def score(self, graph):
        return Score(sum(gain for name, gain in GAINS.items() if name not in graph.operations))


def test_greedy_takes_the_best_of_all_each_time():
    made = Made()
    steps = list(greedy(made, made))
    assert [(step.sqnr_db, step.in_float, step.runs) for step in steps] == [(0, 0, 1), (4, 1, 4), (7, 3, 6)]
    assert [step.seconds for step in steps] == sorted(step.seconds for step in steps)
    assert len(list(takewhile(lambda step: step.sqnr_db < 5, greedy(made, made)))) == 2


def test_a_row_has_both_searches():
    reached = Reached(["b"], 2, 3, QuantizationSetting(), Score(4.26), None, [], 7)
    rows = greedy_row(4.0, Step(5.0, 1, 40, 9.6), reached, 1.4)
    assert rows == [["greedy", "4.0", "5.0", "1", "40", "10"], ["Calibrant", "4.0", "4.3", "2", "7", "1"]]


def test_halves_of_labelled_items():
    subject = Subject("", Path(), [], lambda item: [item])
    labelled = Labelled(subject, [1, 2, 3, 4, 6], lambda run, item: run(item)[0] == item, 0.5)
    assert labelled.metric(True)(lambda x: [min(x, 3)]) == pytest.approx(200 / 3)
    assert labelled.metric(False)(lambda x: [min(x, 3)]) == 50
