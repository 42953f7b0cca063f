"""What runs the model again after calibration: which samples it gets, and how it is stopped."""

import signal

import pytest

from calibrant import calibrate
from calibrant.api import quantize
from calibrant.core import DataError, SettingError
from calibrant.passes import pipeline
from calibrant.passes.optimization import OptimizationPass, StopsBetweenLayers


class Counting(OptimizationPass):
    """Has four layers, in which nothing is to be done."""

    name = "Counting"

    def __init__(self, at_second=None):
        self.at_second = at_second
        self.seen, self.done = [], 0

    def layers(self, graph, samples, executor):
        self.seen = list(samples)
        for self.done in range(1, 5):
            if self.done == 2 and self.at_second:
                self.at_second()
            yield self.done, 4


@pytest.fixture
def counting(monkeypatch):
    """One Counting pass at the end of every pipeline."""
    found = Counting()
    monkeypatch.setattr("calibrant.quantization.pipeline", lambda *args: [*pipeline(*args), found])
    return found


def contents(feeds):
    return sorted(feed["x"].tobytes() for feed in feeds)


def test_it_sees_the_samples_that_were_calibrated_on(counting, small_model, small_samples):
    told = []
    _, summary = quantize(small_model, iter(small_samples[:20]), on_layer=lambda *args: told.append(args))
    assert told == [("Counting", done, 4) for done in (1, 2, 3, 4)]
    assert contents(counting.seen) == contents({"x": s} for s in small_samples[:20])
    assert summary.samples == 20
    assert summary.seconds["Counting"] > 0


def test_beside_a_table_samples_are_read_for_it_alone(counting, small_model, small_samples):
    table = calibrate(small_model, small_samples[:20])
    _, summary = quantize(small_model, small_samples[20:30], table=table)
    assert contents(counting.seen) == contents({"x": s} for s in small_samples[20:30])
    assert summary.samples == 20
    with pytest.raises(SettingError, match="needs samples, beside a table as well"):
        quantize(small_model, None, table=table)


@pytest.fixture
def interrupted_by_control_c():
    """A process of a shell's background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_control_c_stops_between_layers_and_the_model_is_whole(counting, small_model, small_samples, caplog):
    counting.at_second = lambda: signal.raise_signal(signal.SIGINT)
    _, summary = quantize(small_model, small_samples[:20])
    assert counting.done == 2
    assert any(record.at_once for record in caplog.records if "Ctrl-C again gives up" in record.message)
    assert any("interrupted" in note for note in summary.notes)
    assert summary.values > 0


def test_a_second_control_c_interrupts_at_once(interrupted_by_control_c):
    before = signal.getsignal(signal.SIGINT)
    twice = Counting(lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    with StopsBetweenLayers(), pytest.raises(KeyboardInterrupt):
        list(twice.layers(None, [], None))
    assert twice.done == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_who_follows_the_layers_may_stop_them(counting, small_model, small_samples):
    quantize(small_model, small_samples[:20], on_layer=lambda name, done, total: done < 3)
    assert counting.done == 3


def test_without_samples_it_says_so():
    with pytest.raises(DataError, match=r"Counting needs samples and an executor"):
        Counting().optimize(None)
