"""From a target to the model that reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from calibrant.core import TargetPlatform
from calibrant.engines import Executor
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.precision.curve import timed, worth_a_choice
from calibrant.precision.judging import Judge
from calibrant.precision.order import Planner, best_order, in_all, leaving, per_operation
from calibrant.precision.rebuilding import Found, Models, quantized_bytes
from calibrant.precision.scoring import Score, Targets
from calibrant.precision.search import NOTHING, OnSearch, Search, Trial
from calibrant.precision.sources import computing, measure_contributions
from calibrant.quantizers.quantize import plan_of
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable
from calibrant.table.affordable import affordable

FEWEST = 64  # samples that whole models are measured on if there are so many, half of them to choose on


@dataclass(frozen=True)
class Reached:
    """A model that reaches its target, or the best within a limit.

    left: the operations to leave in float, by name. in_float, operations: how many are lost to float, with those that
        go along, of how many that could be quantized. setting: leaves the same in float, without a search; what is
        equalized, or found by passes that optimize, is found anew.
    score: see `Judge.score`. float_metric, float_latency: of the float model.
    curve: this one, and of the others that were run those that none beats, from nothing in float on: see
        `worth_a_choice`. runs: how many were run.
    """

    left: list[str]
    in_float: int
    operations: int
    setting: QuantizationSetting
    score: Score
    float_metric: float | None
    curve: list[Trial]
    runs: int
    float_latency: float | None = None


def reach(
    graph: Graph,
    platform: TargetPlatform,
    setting: QuantizationSetting,
    targets: Targets,
    samples: Sequence[Feed],
    executor: Executor,
    found: Found,
    table: CalibrationTable | None = None,
    on_search: OnSearch | None = None,
) -> Reached:
    """Leave in float what the targets take; `graph` is then the model that reaches them.

    graph: quantized and calibrated for the platform and the setting; found: its scales. samples: to measure on; by
    their contents one half says what to try, and a target in dB holds on each half.

    Raises TargetError where the targets are met only when nothing is quantized any more, or with more in float than
    may be.
    """
    judge = Judge(targets, measured_on(samples, table), executor)
    models = Models(graph, platform, setting, found, table, executor.threads)
    operations = len(graph.operations)
    trial = Trial(NOTHING, 0, judge.score(graph), quantized_bytes(graph))
    trials = [trial]
    budget = targets.budget
    searched = bool(budget) or judge.misses(trial.score)
    if searched:
        integer_only = computing(plan_of(graph, platform, setting))
        told = None if on_search is None else partial(on_search, "measuring where the noise comes from")
        contributions = measure_contributions(graph, executor, judge.choosing, integer_only, told)
        observed = None if table is None else frozenset(table)
        planner = Planner(graph, platform, setting, contributions, observed)
        orders = [best_order(planner, graph, weigh) for weigh in (per_operation, in_all)]
        search = Search(models, judge, planner, orders, trial, on_search)
        trial = search.smallest() if budget is None else search.most_accurate(budget)
        trials = search.trials
    curve, float_latency = worth_a_choice(trials, trial), None
    if targets.latency:
        curve, float_latency = timed(curve, models, judge.choosing[0], executor.threads, on_search)
    if searched:
        models.build(trial.left)
    reason = "left in float to reach the target" if budget is None else "left in float, where that gains most"
    graph.left_in_float |= dict.fromkeys(trial.left, reason)
    models.tell_again()
    return Reached(
        sorted(trial.left),
        trial.in_float,
        operations,
        replace(leaving(setting, trial.left), target_sqnr=None, max_drop=None, most_in_float=None),
        trial.score,
        judge.float_metric,
        curve,
        len(trials),
        float_latency,
    )


def measured_on(samples: Sequence[Feed], table: CalibrationTable | None) -> list[Feed]:
    """The first of the samples: FEWEST of them, or more where the model is small."""
    return list(samples[:FEWEST]) if table is None else affordable(list(samples), table, FEWEST)
