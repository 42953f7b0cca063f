"""OutputRefinementPass: scales of activations, chosen by what they do to the model's outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calibrant.core import CalibrantError, QuantizationStates, affine, fake_quantize
from calibrant.engines.remainder import AS_IT_IS, key_of
from calibrant.engines.stepping import Stepping
from calibrant.passes.activations import activation_configs, unsettle_dependents
from calibrant.passes.ahead import Ahead, affordable, check_size, less
from calibrant.passes.auto import candidates_for
from calibrant.passes.optimization import OptimizationPass
from calibrant.passes.runtime import wanted_by
from calibrant.quantizers.choice import nodes_of
from calibrant.settings import OutputRefinementSetting

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.core import TensorQuantizationConfig
    from calibrant.engines import Executor
    from calibrant.engines.samples import Feed
    from calibrant.graph import Graph

log = logging.getLogger(__name__)

Config = Any
F64 = NDArray[np.float64]
Array = NDArray[Any]
FACTORS = (1.25, 1.1)  # of the ends of a range, from step to step
WIDEST = 8  # bits beyond which rounding is so fine that there is nothing to choose


class OutputRefinementPass(OptimizationPass):
    """Choose scale and offset of each activation by the error that they leave at the model's outputs.

    interested_layers: names of values, or of nodes, operator types or regular expressions of those that make them;
    empty: all. steps: how many samples are looked at.

    Value after value, in the order in which they are made: all before it is quantized as it will be, as far as it is
    solved, what comes after it runs in float. A range is tried in these steps:
    1. The ranges that each method (mse, percentile, minmax, kl) finds, and the present one; the best is gone on with.
    2. Both ends, then each end that is not 0 alone, times or divided by 1.25, as long as the error falls; then by 1.1.
       No range passes the extremes that were seen.
    The samples that err most come first: a range that errs more on these than the best on all is given up.
    The error is taken on one half of the samples; on the other, it must be less than with the present range as well,
    or the present one stays.

    Not for scales per channel, beyond 8 bits, found by isotone, or shared by several values that are not copies of one.
    Runs after calibration. Before the weights are solved, they count as float: what few bits do to them would hide
    what a range does. Biases and weights that depend on a scale are unsettled where it changes.
    """

    name: ClassVar[str] = "OutputRefinementPass"

    def __init__(self, interested_layers: Sequence[str] = (), steps: int = OutputRefinementSetting.steps) -> None:
        self.interested_layers = list(interested_layers)
        self.steps = steps

    def held_out(self, samples: Sequence[Feed]) -> Sequence[Feed]:
        return samples[self.steps :] or samples[1::2] or samples

    def layers(self, graph: Graph, samples: Sequence[Feed], executor: Executor) -> Iterator[tuple[int, int]]:
        check_size(graph, self.name)
        found = refinable(graph, self.interested_layers)
        if not found:
            return
        feeds = affordable(graph, samples[: self.steps])
        solve_starts(graph, found, feeds, executor)
        ahead = Ahead.at_outputs(graph, feeds, executor)
        made_by: dict[ir.Node | None, list[Refinable]] = {}
        for value in found:
            made_by.setdefault(value.node, []).append(value)
        done = moved = 0
        stepping = Stepping(graph, feeds, True, executor.threads)
        try:
            for node in (None, *graph.model.graph):
                for value in made_by.get(node, []):
                    made = stepping.look_ahead(node) if node else [feed[value.value.name or ""] for feed in feeds]
                    if self._refine(value, made, stepping, ahead):
                        moved += 1
                        unsettle_dependents(graph, {id(value.config)})
                        if node is None:
                            stepping.put(value.value.name or "", made)
                    done += 1
                    yield done, len(found)
                if node is not None:
                    stepping.step(node)
        finally:
            stepping.close()
            graph.note(f"output refinement: {moved} of {len(found)} scales moved")

    def _refine(self, value: Refinable, made: list[Array], stepping: Stepping, ahead: Ahead) -> bool:
        """Move the value's scale where that is better on both halves of the samples; whether it was moved."""
        halves = [list(range(len(made)))[half::2] or [0] for half in (0, 1)]
        remainder = ahead.from_here(value.node, value.value)
        key = key_of(value.config)
        others = {key_of(config): config for config in value.others}

        def form(config: Config, number: int, wanted: int) -> Array:
            if wanted == AS_IT_IS:
                return made[number]
            return fake_quantize(made[number], config if wanted == key else others[wanted])

        def errors(config: Config, numbers: Sequence[int], best: F64 | None = None) -> F64:
            return ahead.race(remainder, stepping, value.value, partial(form, config), numbers, best)

        now = errors(value.config, halves[0])
        order = np.argsort(-now, kind="stable")  # those that err most tell soonest
        hard = [halves[0][i] for i in order]
        best = Search(value, now[order], lambda config, of_best: errors(config, hard, of_best)).run()
        if best is value.config:
            return False
        before = errors(value.config, halves[1])
        if not less(errors(best, halves[1], before), before):
            return False
        value.config.scale, value.config.offset = best.scale, best.offset
        return True


@dataclass
class Refinable:
    """A value whose config is to be refined, and what there is to start from."""

    node: ir.Node | None  # that makes it; None: it is an input
    value: ir.Value
    config: TensorQuantizationConfig
    others: list[TensorQuantizationConfig]  # by which it is read as well
    starts: list[TensorQuantizationConfig]
    low: float = -np.inf
    high: float = np.inf


class Search:
    """The range of least error, as `OutputRefinementPass` says."""

    def __init__(self, value: Refinable, now: F64, errors: Callable[[Config, F64], F64]) -> None:
        """now: the errors of the value's config. errors: of another one, beside those of the best; see `Ahead.race`."""
        self._value, self._errors = value, errors
        self._best: Config = value.config
        self._least = now
        self._known = {_key_of(value.config)}

    def run(self) -> Config:
        """The config itself, or a copy with another scale and offset."""
        for start in self._value.starts:
            self._improves(start)
        for factor in FACTORS:
            for low, high in self._moves(self._best):
                for step in (1 / factor, factor):
                    while self._improves(self._moved(self._best, step if low else 1.0, step if high else 1.0)):
                        pass
        return self._best

    def _improves(self, config: Config) -> bool:
        """Whether that is the best so far; what was tried before is not."""
        if _key_of(config) in self._known:
            return False
        self._known.add(_key_of(config))
        errors = self._errors(config, self._least)
        if not less(errors, self._least):
            return False
        self._best, self._least = config, errors
        return True

    def _moves(self, config: Config) -> list[tuple[bool, bool]]:
        """Which ends to move: both, then each by itself where both are free."""
        low, high = ends_of(config)
        return (
            [(True, True)]
            if config.is_symmetric or low == 0 or high == 0
            else [(True, True), (False, True), (True, False)]
        )

    def _moved(self, config: Config, low: float, high: float) -> Config:
        ends = ends_of(config)
        bottom, top = max(ends[0] * low, self._value.low), min(ends[1] * high, self._value.high)
        scale, offset = affine(bottom, top, config)
        return config.clone(scale=scale, offset=offset)


def _key_of(config: Config) -> tuple[float, float]:
    return float(config.scale), float(config.offset)


def ends_of(config: Config) -> tuple[float, float]:
    """The ends of the range that the grid covers."""
    scale, offset = float(config.scale), float(config.offset)
    return (config.quant_min - offset) * scale, (config.quant_max - offset) * scale


def refinable(graph: Graph, interested: Sequence[str] = ()) -> list[Refinable]:
    """The values whose scales can be refined, in the order in which they are made."""
    found = []
    configs = [(c, roots) for c, roots in activation_configs(graph) if c.state is QuantizationStates.ACTIVATED]
    for config, roots in configs:
        value = graph.value(roots[0])
        node = value.producer()
        if len(roots) != 1 or (node is not None and value is not node.outputs[0]):
            continue
        if config.is_per_channel or config.num_of_bits > WIDEST or config.observer_algorithm.casefold() == "isotone":
            continue
        others = [c for c, names in configs if c is not config and roots[0] in names]
        found.append(Refinable(node, value, config, others, []))
    if interested:
        wanted = {name for pattern in interested for name in _meant(graph, pattern)}
        found = [one for one in found if wanted & {one.value.name, one.node.name if one.node else None}]
    order: dict[ir.Node | None, int] = {node: place for place, node in enumerate((None, *graph.model.graph))}
    return sorted(found, key=lambda one: order[one.node])


def _meant(graph: Graph, pattern: str) -> list[str]:
    return [pattern] if pattern in {v.name for v in graph.values()} else nodes_of(graph, "interested_layers", pattern)


def solve_starts(graph: Graph, values: Sequence[Refinable], samples: Sequence[Feed], executor: Executor) -> None:
    """Fill in what each method finds on these samples, and the extremes."""
    tasks = [(value, candidates_for(value.config, [value.value.name or ""])) for value in values]
    sketches = executor.collect(samples, wanted_by([task for _, of in tasks for task in of], graph))
    for value, of in tasks:
        extremes = sketches[value.value.name or ""].extremes.per_tensor()
        value.low, value.high = min(float(extremes.lo[0]), 0.0), max(float(extremes.hi[0]), 0.0)
        for task in of:
            with suppress(CalibrantError):
                task.find(sketches)
                value.starts.append(value.config.clone(scale=task.draft.scale, offset=task.draft.offset))
