"""Targets: reached, with hardly more in float than trying everything finds; and said so when they cannot be."""

import json
from itertools import combinations, pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibrant.analysis import Simulation, sqnr_db
from calibrant.api import calibrate, export_graph, quantize, quantize_onnx_model
from calibrant.core import DataError, SettingError, TargetError
from calibrant.engines import OnnxruntimeExecutor, iterate_samples
from calibrant.graph import load_onnx_graph
from calibrant.precision.judging import Judge
from calibrant.precision.scoring import Score, Targets
from calibrant.settings import QuantizationSetting

from .conftest import PLATFORM, models_of, residual_net


def exhaustive_greedy(built, judge, target):
    """How many operations are lost to float when at each step every operation is tried, and the best one left so."""
    everything = len(built.graph.operations)
    left = frozenset()
    built.build(left)
    best = judge.score(built.graph).sqnr_db
    while best < target:
        scores = {}
        for name in list(built.graph.operations):
            built.build(left | {name})
            scores[judge.score(built.graph).sqnr_db] = name
        best = max(scores)
        left |= {scores[best]}
        built.build(left)
    return everything - len(built.graph.operations)


def with_target(db=None, **more):
    setting = QuantizationSetting()
    setting.target_sqnr = db
    for name, what in more.items():
        setattr(setting, name, what)
    return setting


@pytest.mark.parametrize("gain", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("net", ["residual", "residual_probabilities"])
def test_as_good_as_trying_everything(net, photos, gain, request):
    """Also of a classifier that is sure of nearly every answer."""
    path = request.getfixturevalue(net)
    built, judge, _ = models_of(path, photos, QuantizationSetting())
    target = judge.score(built.graph).sqnr_db + gain
    _, summary = quantize(path, photos, setting=with_target(target), threads=1)
    reached = summary.target
    assert reached.score.sqnr_db >= target
    assert 0 < reached.in_float <= 1.2 * exhaustive_greedy(built, judge, target)


def test_few_models_are_run(residual, photos):
    _, summary = quantize(residual, photos, setting=with_target(40.0), threads=1)
    assert summary.target.in_float >= 2
    assert summary.target.runs <= 24


def test_what_is_reported_can_be_typed_in_again(residual, photos, tmp_path):
    """From a table: what onnxruntime fuses, and so the last bit of a value, depends on the values that are observed."""
    table = calibrate(residual, photos, threads=1)
    graph, summary = quantize(residual, photos, setting=with_target(38.0), table=table, threads=1)
    reached = summary.target
    assert reached.left
    assert set(reached.left) <= set(graph.left_in_float)
    assert reached.setting.leave_in_float == reached.left
    assert reached.setting.target_sqnr is None
    again, _ = quantize(residual, None, setting=reached.setting, table=table, threads=1)
    export_graph(graph, "ONNXRUNTIME", tmp_path / "one.onnx")
    export_graph(again, "ONNXRUNTIME", tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert json.loads(graph.provenance["setting"])["leave_in_float"] == reached.left


def test_a_target_that_is_met_costs_nothing(residual, photos):
    graph, summary = quantize(residual, photos, setting=with_target(5.0), threads=1)
    plain, _ = quantize(residual, photos, threads=1)
    assert (summary.target.left, summary.target.in_float, summary.target.runs) == ([], 0, 1)
    assert set(graph.operations) == set(plain.operations)


def test_more_is_left_in_float_for_more(residual, photos):
    found = [quantize(residual, photos, setting=with_target(db), threads=1)[1].target for db in (36.0, 42.0)]
    assert found[0].in_float < found[1].in_float
    assert found[1].score.sqnr_db >= 42


def test_the_curve_rises_from_nothing_in_float_to_the_model_that_was_made(residual, photos):
    reached = quantize(residual, photos, setting=with_target(42.0), threads=1)[1].target
    curve = reached.curve
    assert curve[0].in_float == 0
    assert [t.in_float for t in curve] == sorted(t.in_float for t in curve)
    assert curve[0].size < curve[-1].size
    assert all(one.score.sqnr_db < other.score.sqnr_db for one, other in pairwise(curve) if other.size == one.size)
    made = [t for t in curve if t.left == set(reached.left)]
    assert [(t.in_float, t.score) for t in made] == [(reached.in_float, reached.score)]
    assert {t.latency for t in curve} | {reached.float_latency} == {None}


def test_out_of_reach_says_what_was_reached(residual, photos):
    with pytest.raises(TargetError, match=r"150 dB at the outputs, is out of reach .* in float"):
        quantize(residual, photos, setting=with_target(150.0), threads=1)


def best_within(built, judge, most):
    """The SQNR of the best of all models with at most so many operations lost to float."""
    built.build(frozenset())
    operations = list(built.graph.operations)
    found = []
    for size in range(most + 1):
        for left in combinations(operations, size):
            built.build(frozenset(left))
            if len(operations) - len(built.graph.operations) <= most:
                found.append(judge.score(built.graph).sqnr_db)
    return max(found)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_the_best_with_so_many_in_float(residual, photos, most):
    built, judge, _ = models_of(residual, photos, QuantizationSetting())
    reached = quantize(residual, photos, setting=with_target(most_in_float=most), threads=1)[1].target
    assert reached.in_float <= most
    assert reached.score.sqnr_db == pytest.approx(best_within(built, judge, most), abs=0.2)
    assert reached.setting.leave_in_float == reached.left
    assert reached.setting.most_in_float is None


def test_a_target_within_a_limit(residual, photos):
    needed = quantize(residual, photos, setting=with_target(40.0), threads=1)[1].target.in_float
    within = quantize(residual, photos, setting=with_target(40.0, most_in_float=needed), threads=1)[1].target
    assert (within.score.sqnr_db >= 40, within.in_float <= needed) == (True, True)
    with pytest.raises(TargetError, match=rf"40 dB at the outputs, takes {needed} of .* at most {needed - 1} may be"):
        quantize(residual, photos, setting=with_target(40.0, most_in_float=needed - 1), threads=1)


def agreement(photos):
    """A metric: minus the mean distance to remembered answers, in hundredths."""
    answers = []

    def metric(run):
        made = [run(photo)[0] for photo in photos]
        answers.append(made)
        return -100 * float(np.mean([np.abs(a - b).mean() for a, b in zip(answers[0], made, strict=True)]))

    return metric


def test_a_metric_of_the_users_own(residual, photos):
    plain = agreement(photos[:8])
    _, summary = quantize(residual, photos, setting=with_target(max_drop=1e6), metric=plain, threads=1)
    assert summary.target.left == []
    drop = -summary.target.score.metric
    assert drop > 0
    _, summary = quantize(
        residual, photos, setting=with_target(max_drop=drop / 2), metric=agreement(photos[:8]), threads=1
    )
    assert summary.target.left
    assert summary.target.float_metric == 0
    assert summary.target.score.metric >= -drop / 2


def test_a_metric_for_those_who_come_from_ppq(residual, photos):
    """The metric is given the float model first, then quantized ones."""
    seen = []

    def metric(run):
        seen.append(run(photos[0])[0])
        return -float(np.abs(seen[0] - seen[-1]).max())

    setting = with_target(max_drop=0.005)
    graph = quantize_onnx_model(residual, photos, 48, None, PLATFORM, setting=setting, metric=metric)
    assert len(seen) > 2
    assert json.loads(graph.provenance["setting"])["leave_in_float"]
    assert np.abs(Simulation(graph).run({"x": photos[0]})[0] - seen[0]).max() <= 0.005


def test_high_effort_and_a_target(residual, photos):
    """What high effort found is kept while operations go to float: fewer have to, for what default effort gives."""
    plain = quantize(residual, photos, setting=with_target(40.0), threads=1)[1].target
    graph, summary = quantize(residual, photos, setting=with_target(40.0, effort="high"), threads=1)
    reached = summary.target
    assert reached.score.sqnr_db >= 40
    assert 0 < reached.in_float < plain.in_float
    assert reached.setting.effort == "high"
    exact = OnnxruntimeExecutor(load_onnx_graph(residual), threads=1)
    simulation = Simulation(graph, 1)
    feeds = [{"x": photo} for photo in photos]
    found = sqnr_db([exact.forward(feed)[0] for feed in feeds], [simulation.run(feed)[0] for feed in feeds])
    assert found >= 40


def test_where_all_that_is_in_float_costs_accuracy_nothing_is(residual, photos, monkeypatch):
    plain = len(quantize(residual, photos, threads=1)[0].operations)
    monkeypatch.setattr(Judge, "score", lambda judge, graph: Score(20.0 - (plain - len(graph.operations))))
    graph, summary = quantize(residual, photos, setting=with_target(most_in_float=2), threads=1)
    assert summary.target.runs > 4
    assert (summary.target.left, summary.target.score.sqnr_db) == ([], 20.0)
    assert len(graph.operations) == plain


@pytest.mark.parametrize("seed", [6, pytest.param(7, marks=pytest.mark.long), pytest.param(8, marks=pytest.mark.long)])
def test_high_effort_with_some_in_float_is_no_worse_than_with_none(seed, photos, tmp_path):
    """By the score, which is that of the graph that comes back."""
    path = tmp_path / "residual.onnx"
    onnx.save(residual_net(seed=seed), path)
    graph, summary = quantize(path, photos, setting=with_target(effort="high", most_in_float=2), threads=1)
    reached = summary.target
    assert reached.curve[0].in_float == 0
    assert reached.score.sqnr_db >= reached.curve[0].score.sqnr_db
    executor = OnnxruntimeExecutor(load_onnx_graph(path), threads=1)
    judge = Judge(Targets(), list(iterate_samples(photos, executor.input_specs)), executor)
    assert judge.score(graph).sqnr_db == pytest.approx(reached.score.sqnr_db, abs=0.01)


def test_a_table_and_samples(residual, photos, tmp_path):
    table = calibrate(residual, photos, threads=1)
    _, summary = quantize(residual, photos, setting=with_target(38.0), table=table, threads=1)
    assert summary.target.score.sqnr_db >= 38
    with pytest.raises(SettingError, match="a target is measured by running the model"):
        quantize(residual, None, setting=with_target(38.0), table=table)


def test_wrong_targets(residual, photos):
    with pytest.raises(SettingError, match="max_drop is a drop of a metric"):
        quantize(residual, photos, setting=with_target(max_drop=1.0))
    with pytest.raises(SettingError, match="set max_drop"):
        quantize(residual, photos, metric=lambda run: 1.0)
    with pytest.raises(SettingError, match="0 or more"):
        with_target(max_drop=-1.0)
    with pytest.raises(SettingError, match="most_in_float is a number of operations, 0 or more; got -1"):
        with_target(most_in_float=-1)
    with pytest.raises(SettingError, match="finite"):
        with_target(float("nan"))
    with pytest.raises(DataError, match="the metric has to return a number, got None"):
        quantize(residual, photos, setting=with_target(max_drop=1.0), metric=lambda run: None)


@pytest.mark.parametrize("wanted", [{"db": 30.0}, {"most_in_float": 2}])
def test_a_model_without_floating_outputs_has_no_decibels(wanted, photos, tmp_path):
    """Labels alone: a target in dB would count as met, and is an error; a metric of one's own tells."""
    model = residual_net(blocks=1)
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], "argmax", axis=1, keepdims=0))
    model.graph.output.pop()
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    onnx.save(model, tmp_path / "labels.onnx")
    with pytest.raises(SettingError, match="measured at floating outputs, and the model has none: give max_drop"):
        quantize(tmp_path / "labels.onnx", photos, setting=with_target(**wanted))
    setting = with_target(max_drop=0.0)
    _, summary = quantize(
        tmp_path / "labels.onnx", photos, setting=setting, metric=lambda run: float(len(run(photos[0])))
    )
    assert summary.target.left == []
