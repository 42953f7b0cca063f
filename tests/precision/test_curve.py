"""The curve: which models are on it, and what is timed of them, and how."""

from itertools import pairwise
from types import SimpleNamespace

import onnx
import pytest

from calibrant.api import export_graph, quantize
from calibrant.core import SettingError
from calibrant.precision import Trial, curve, latency
from calibrant.precision.curve import worth_a_choice
from calibrant.precision.scoring import Score
from calibrant.settings import QuantizationSetting


def trial(in_float, sqnr_db, size, metric=None):
    return Trial(frozenset(map(str, range(in_float))), in_float, Score(sqnr_db, metric), size)


def test_what_is_no_better_with_more_is_not_on_the_curve():
    plain, dear, more, best = trial(0, 20.0, 1000), trial(1, 24.0, 3000), trial(2, 23.0, 1000), trial(4, 30.0, 3000)
    beaten = [
        trial(1, 19.9, 1000),
        trial(2, 23.9, 3000),
        trial(3, 23.0, 1000),
        trial(3, 23.0, 995),
        trial(5, 30.0, 3000),
    ]
    found = worth_a_choice([best, *beaten, more, dear, plain], best)
    assert found == [plain, dear, more, best]  # `more` has more in float than `dear`, and is a third of its size


def test_bytes_that_hardly_differ_are_no_choice():
    plain, one, two, larger = trial(0, 20.0, 1000), trial(3, 22.5, 1000), trial(3, 22.6, 1005), trial(3, 22.7, 1100)
    assert worth_a_choice([plain, one, two], plain) == [plain, two]
    assert worth_a_choice([larger, two, one, plain], plain) == [plain, two, larger]


def test_the_model_that_was_made_is_on_the_curve_in_any_case():
    plain, better, made = trial(0, 20.0, 1000), trial(1, 24.0, 1000), trial(2, 23.0, 1000)
    assert worth_a_choice([plain, better, made], made) == [plain, better, made]
    assert worth_a_choice([plain, better, made], better) == [plain, better]


def test_where_there_is_a_metric_it_says_what_is_better():
    plain, one, two = trial(0, 20.0, 1000, 0.7), trial(1, 24.0, 1000, 0.6), trial(2, 19.0, 1000, 0.8)
    assert worth_a_choice([plain, one, two], two) == [plain, two]
    equal = trial(1, 24.0, 1000, 0.7)
    assert worth_a_choice([plain, equal, two], two) == [plain, equal, two]


class Clock:
    """In place of the time: of each turn the first run takes ten times what its session says; then once, twice, ..."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def session(self, seconds, threads):
        def run(names, feed):
            self.now += seconds * (len(self.log) % latency.TURN or 10)
            self.log.append(seconds)

        return SimpleNamespace(run=run)


def test_models_take_turns_and_the_first_run_of_a_turn_does_not_count(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(latency, "_session", clock.session)
    middle = latency.TURN / 2
    assert latency.latencies([2.0, 3.0], {}, 1) == [2.0 * middle, 3.0 * middle]
    assert clock.log == (latency.TURN * [2.0] + latency.TURN * [3.0]) * latency.FEWEST  # all are beyond SECONDS
    clock.now, clock.log = 0.0, []
    assert latency.latencies([0.001], {}, 1) == pytest.approx([0.001 * middle])
    assert latency.SECONDS <= clock.now < 1.1 * latency.SECONDS


def targeting(db):
    setting = QuantizationSetting()
    setting.target_sqnr = db
    return setting


@pytest.mark.parametrize("db", [5.0, 40.0])
def test_what_is_timed_is_what_would_be_exported(residual, photos, tmp_path, monkeypatch, db):
    """And timing it changes nothing of the model that is made, whether there was a search or not."""
    timed = []

    def latencies(models, feed, threads):
        assert (feed["x"].shape, threads) == ((1, 3, 12, 12), 1)
        timed.extend(onnx.load_from_string(m) if isinstance(m, bytes) else onnx.load(m) for m in models)
        return [float(number) for number in range(len(models))]

    monkeypatch.setattr(curve, "latencies", latencies)
    plain, _ = quantize(residual, photos, setting=targeting(db), threads=1)
    graph, summary = quantize(residual, photos, setting=targeting(db), threads=1, measure_latency=True)
    reached = summary.target
    assert reached.float_latency == 0.0
    assert [point.latency for point in reached.curve] == [float(n + 1) for n in range(len(reached.curve))]
    kinds = [[node.op_type for node in model.graph.node] for model in timed]
    assert "QuantizeLinear" not in kinds[0]
    rounded = [types.count("QuantizeLinear") for types in kinds[1:]]
    assert rounded[0] == max(rounded) > 0
    assert all(one != other for one, other in pairwise(timed))
    export_graph(graph, "ONNXRUNTIME", tmp_path / "one.onnx")
    export_graph(plain, "ONNXRUNTIME", tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    made = next(n for n, point in enumerate(reached.curve) if point.left == set(reached.left))
    assert timed[made + 1].graph == onnx.load(tmp_path / "one.onnx").graph


def test_each_takes_its_time(residual, photos, monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.01)
    reached = quantize(residual, photos, setting=targeting(40.0), threads=1, measure_latency=True)[1].target
    assert all(0 < seconds < 1 for seconds in [reached.float_latency, *(point.latency for point in reached.curve)])


def test_latency_is_refused_where_it_means_nothing(residual, photos):
    with pytest.raises(SettingError, match="of the models on the way to a target"):
        quantize(residual, photos, measure_latency=True)
    with pytest.raises(SettingError, match="in onnxruntime, which does not run a model made for TRT_INT8"):
        quantize(residual, photos, platform="TRT_INT8", setting=targeting(40.0), measure_latency=True)
