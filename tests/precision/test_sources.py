"""What each source of noise contributes: against models in which it alone is rounded; and what is a source."""

from itertools import pairwise

import numpy as np
import pytest

from calibrant.analysis import Simulation, sqnr_db
from calibrant.core import QuantizationStates
from calibrant.precision.order import Planner, best_order
from calibrant.precision.sources import computing, folded, measure_contributions, parameters, read, sources_of, value
from calibrant.quantizers.quantize import plan_of
from calibrant.settings import QuantizationSetting

from .conftest import PLATFORM, models_of


def contributions(models, samples=None):
    built, judge, executor = models
    integer_only = computing(plan_of(built.graph, PLATFORM, QuantizationSetting()))
    return measure_contributions(built.graph, executor, judge.choosing[:samples], integer_only)


def planner_of(models, samples=None):
    return Planner(models[0].graph, PLATFORM, QuantizationSetting(), contributions(models, samples))


def with_only(graph, kept):
    """Every config off but these, by identity."""
    for config in (*graph.configs.values(), *graph.edges.values()):
        if not any(config is one for one in kept):
            config.state = QuantizationStates.FP32


@pytest.mark.parametrize("source", [value("deep1.act"), value("sum2"), value("x"), parameters("point1")])
def test_a_contribution_is_what_a_model_with_that_noise_alone_has(models, source):
    built, judge, executor = models
    graph = built.graph
    found = contributions(models).together([source])
    exact = [executor.forward(feed)[0] for feed in judge.choosing]
    parameter = source.kind == "parameters"
    with_only(graph, [graph.edges[source.name, 1] if parameter else graph.config_of(source.name)])
    simulation = Simulation(graph)
    quantized = [simulation.run(feed)[0] for feed in judge.choosing]
    assert found.shape == (1,)
    assert -10 * np.log10(found[0]) == pytest.approx(sqnr_db(exact, quantized), abs=0.3)


def test_of_probabilities_what_their_softmax_is_given_counts(residual, residual_probabilities, photos):
    """Noise over signal of logits less their mean, which a Softmax cannot tell from logits: sure or not, the same."""
    found = [
        contributions(models_of(path, photos, QuantizationSetting()), 4).together([value("deep1.act")])[0]
        for path in (residual, residual_probabilities)
    ]
    assert 0.5 < found[0] / found[1] < 2


def test_the_sum_of_all_foretells_the_model(models):
    built, judge, _ = models
    planner = planner_of(models)
    for left in (frozenset(), frozenset({"stem", "deep0"}), frozenset({"point3", "point2"})):
        forecast = planner.forecast(left)
        built.build(left)
        assert forecast.quantized == frozenset(built.graph.operations)
        assert forecast.sqnr_db == pytest.approx(judge.score(built.graph).sqnr_db, abs=1.5)


def test_a_value_between_two_operations_is_exact_only_when_both_are(models):
    rounded = {left: sources_with(models, *left) for left in ((), ("deep0",), ("point0",), ("deep0", "point0"))}
    assert value("deep0.act") in rounded[()] & rounded["point0",]
    assert read("deep0.act") in rounded["deep0",]
    assert not {value("deep0.act"), read("deep0.act")} & rounded["deep0", "point0"]


def test_the_order_grows_from_nothing_to_all(models):
    planner = planner_of(models, 4)
    order = list(best_order(planner, models[0].graph))
    assert order[0] == frozenset()
    assert all(one < other for one, other in pairwise(order))
    assert not planner.forecast(order[-1]).quantized
    foretold = [planner.forecast(left).sqnr_db for left in order]
    assert all(one < other + 1 for one, other in pairwise(foretold))
    assert foretold[0] < foretold[len(order) // 2] < foretold[-1]


def test_what_was_not_observed_is_passed_over(models):
    graph = models[0].graph
    observed = frozenset(name for group in graph.groups for name in group.values) - {"sum1"}
    planner = Planner(graph, PLATFORM, QuantizationSetting(), contributions(models, 2), observed)
    for left in list(best_order(planner, graph))[1:-1]:
        assert not {value("sum1"), read("sum1")} & sources_with(models, *left)


def test_a_value_that_convolutions_alone_read_rounded_disturbs_less(models):
    """`sum1` is read by a convolution, and by the sum around it."""
    found = contributions(models)
    assert 0 < found.together([read("sum1")])[0] < found.together([value("sum1")])[0]
    assert found.together([read("deep1.act")]) == found.together([value("deep1.act")])
    assert value("sum1") in sources_with(models)
    assert read("sum1") in sources_with(models, "add1")


def sources_with(models, *left):
    setting = QuantizationSetting()
    setting.leave_in_float = list(left)
    return sources_of(plan_of(models[0].graph, PLATFORM, setting))


def test_folding_keeps_inner_products():
    rng = np.random.default_rng(3)
    one = rng.normal(size=50_000)
    other = one + rng.normal(size=one.size)
    exact = np.array([one @ one, one @ other, other @ other])
    a, b = folded(one, 4096), folded(other.reshape(100, 500), 4096)
    assert a.shape == (4096,)
    np.testing.assert_allclose([a @ a, a @ b, b @ b], exact, rtol=0.1)
    assert (folded(one, one.size) == one).all()
