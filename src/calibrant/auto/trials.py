"""Quantized models of one graph that differ in their methods alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from calibrant.analysis import Simulation, reader_errors
from calibrant.core import CalibrantError, ConfigError, TargetPlatform, TensorQuantizationConfig
from calibrant.engines import Executor
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.graph.streams import Stream
from calibrant.passes import ParameterQuantizePass, pipeline
from calibrant.passes.auto import AUTO, CANDIDATES, AutoCalibration, candidates_for
from calibrant.passes.calibration import Calibration
from calibrant.passes.equalization import equalize, equalize_again
from calibrant.passes.optimization import OptimizationPass
from calibrant.passes.parameter import keep_weights, solved_weights
from calibrant.passes.runtime import RuntimeCalibrationPass
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting
from calibrant.sketches import TensorSketch
from calibrant.table import CalibrationTable

log = logging.getLogger(__name__)

T = TypeVar("T")

Ways = dict[str, Calibration]  # by the method's name what it found for one config
OWN = "the platform's own"


class Choice(NamedTuple):
    """equalized: for which method the graph is. methods: of each config whose method is `auto`, in the order of
    `CalibrationTable.check`."""

    equalized: str
    methods: tuple[str, ...]


@dataclass
class _Ground:
    """The graph as it is equalized for one method: what all models on it have in common.

    table: its statistics then. methods: that it is equalized for. tasks: what is to be solved; ways: of each what every
    method finds. weights: once they are solved.
    """

    table: CalibrationTable
    factors: Mapping[Stream, NDArray[np.float64]]
    methods: Sequence[str]
    tasks: Sequence[Calibration] = ()
    ways: list[Ways] = field(default_factory=list)
    weights: dict[tuple[str, int], TensorQuantizationConfig] = field(default_factory=dict)

    def is_like(self, other: _Ground) -> bool:
        """Whether the same streams are divided by the same factors."""
        return self.factors.keys() == other.factors.keys() and all(
            np.array_equal(factors, other.factors[stream]) for stream, factors in self.factors.items()
        )

    def open(self, each: Sequence[T]) -> list[T]:
        """Of a sequence with an item for each task, those of the configs whose method is `auto`."""
        return [one for one, task in zip(each, self.tasks, strict=True) if isinstance(task, AutoCalibration)]


class Trials:
    """The graph with one choice of methods after another.

    How a graph is equalized depends on the methods of its values: for each of them alone it is as it would be without
    `auto`, so that the models of single methods are among those that are tried. What models that are equalized alike
    have in common is found once: the scale of every value by every method, and the weights.
    table: after `prepare`, the statistics, equalized as the graph is.
    Raises as `CalibrationTable.check` does, and the method's own error where none at all serves a value.
    """

    def __init__(
        self,
        graph: Graph,
        platform: TargetPlatform,
        setting: QuantizationSetting,
        table: CalibrationTable,
        executor: Executor,
    ) -> None:
        self.graph, self.executor, self.table = graph, executor, table
        self._platform, self._setting = platform, setting
        own = self._solve(self._equalized(None))
        executor.load_graph(graph)
        self._grounds = {OWN: own}
        for method in CANDIDATES:
            with suppress(ConfigError):  # kl takes 8 bits at most
                ground = self._equalized(method)
                self._grounds[method] = own if ground.is_like(own) else self._solve(ground)

    def choices(self) -> dict[str, Choice]:
        """By name: the platform's own methods, each method alone, and for each value the best by the table.

        Without those that do not serve every value, such as kl beyond 8 bits.
        """
        own = self._grounds[OWN]
        found = {OWN: Choice(OWN, tuple(own.open(own.methods)))}
        for method in CANDIDATES:
            found[method] = self._alone(method, OWN)
            if self._grounds.get(method, own) is not own:
                found[f"{method}, equalized for {OWN}"] = found[method]
                found[method] = self._alone(method, method)
        found |= self._by_table(own)
        return {name: choice for name, choice in found.items() if self._serves(choice)}

    def by_layer(self, samples: Sequence[Feed]) -> Choice:
        """For each value the method of least error at the outputs of the operators that read it, on these samples."""
        own = self._grounds[OWN]
        self._anew(own)
        values = {id(group.config): group.values for group in self.graph.groups}
        tasks, ways = own.open(own.table.check(self.graph)), own.open(own.ways)
        tried = [
            (values.get(id(task.config), task.roots), [way.draft for way in of.values()])
            for task, of in zip(tasks, ways, strict=True)
        ]
        errors = reader_errors(self.graph, self.executor, samples, tried)
        return Choice(OWN, tuple(list(of)[int(error.argmin())] for of, error in zip(ways, errors, strict=True)))

    def model(self, choice: Choice) -> Simulation:
        """The graph with these methods, quantized and ready to run: up to what passes do that run it again.

        Each sample runs on one thread, so that several may run side by side.
        """
        ground = self._grounds[choice.equalized]
        self._anew(ground)
        methods = iter(choice.methods)
        for task, ways in zip(ground.table.check(self.graph), ground.ways, strict=True):
            way = ways[next(methods)] if isinstance(task, AutoCalibration) else next(iter(ways.values()))
            replace(way, config=task.config).commit()
        for step in pipeline(self._setting, None):
            if not isinstance(step, (RuntimeCalibrationPass, OptimizationPass)):
                step.optimize(self.graph, threads=self.executor.threads)
            if isinstance(step, ParameterQuantizePass):
                ground.weights = ground.weights or solved_weights(self.graph)
        return Simulation(self.graph, threads=1)

    def prepare(self, choice: Choice) -> None:
        """Leave the graph as `quantize_graph` does, with these methods instead of `auto`, and its weights solved.

        But where output refinement is to come, which wants them in float: they are solved again behind it.
        """
        ground = self._grounds[choice.equalized]
        if self._setting.wants("output_refinement"):
            ground.weights = {}
        self._anew(ground)
        self.table = ground.table
        for task, method in zip(ground.open(self.table.check(self.graph)), choice.methods, strict=True):
            task.config.observer_algorithm = method

    def _equalized(self, method: str | None) -> _Ground:
        """The graph equalized for a method, None: the platform's own; nothing is solved on it yet."""
        table = self.table
        asked = replace(self._setting.quantize_activation_setting, calib_algorithm=method)
        setting = replace(self._setting, quantize_activation_setting=asked)
        quantize_graph(self.graph, self._platform, setting)
        equalized = equalize(self.graph, table.check(self.graph), table.sketches)
        methods = [task.draft.observer_algorithm.casefold() for task in equalized.tasks]
        return _Ground(replace(table, sketches=equalized.sketches), equalized.factors, methods)

    def _solve(self, ground: _Ground) -> _Ground:
        """The same, with what every method finds on it; the graph is left so."""
        self._anew(ground)
        ground.tasks = ground.table.check(self.graph)
        ground.ways = self._solved(ground)
        return ground

    def _anew(self, ground: _Ground) -> None:
        quantize_graph(self.graph, self._platform, self._setting)
        equalize_again(self.graph, ground.factors)
        keep_weights(self.graph, ground.weights)

    def _alone(self, method: str, equalized: str) -> Choice:
        ground = self._grounds[equalized]
        return Choice(equalized, (method,) * len(ground.open(ground.tasks)))

    def _serves(self, choice: Choice) -> bool:
        ground = self._grounds[choice.equalized]
        return all(method in ways for method, ways in zip(choice.methods, ground.open(ground.ways), strict=True))

    def _by_table(self, ground: _Ground) -> dict[str, Choice]:
        """For each value the method that errs least on the half of the statistics that its scale is not found on."""

        def best(task: Calibration) -> str:
            chosen = task.chosen(ground.table.sketches) if isinstance(task, AutoCalibration) else task
            return chosen.draft.observer_algorithm

        with self._pool() as pool:
            try:
                return {AUTO: Choice(OWN, tuple(pool.map(best, ground.open(ground.tasks))))}
            except CalibrantError as error:  # of a half that is too poor for one of the methods
                log.info("auto: no choice by the table: %s", error)
                return {}

    def _solved(self, ground: _Ground) -> list[Ways]:
        """Of each config what each method finds in the table; those open are tried with the platform's own too."""
        tried = [
            candidates_for(task.config, task.roots, method)
            if isinstance(task, AutoCalibration)
            else [Calibration.of(task.config, task.roots, task.draft.observer_algorithm)]
            for task, method in zip(ground.tasks, ground.methods, strict=True)
        ]
        with self._pool() as pool:
            return list(pool.map(lambda ways: _served(ways, ground.table.sketches), tried))

    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.executor.threads, thread_name_prefix="calibrant-solve")


def _served(ways: Sequence[Calibration], sketches: Mapping[str, TensorSketch]) -> Ways:
    """Those that find a scale. Raises the error of one where none does."""
    found: Ways = {}
    for way in ways:
        try:
            way.find(sketches)
            found[way.draft.observer_algorithm.casefold()] = way
        except CalibrantError as error:
            log.info("auto: %s does not serve '%s': %s", way.draft.observer_algorithm, ", ".join(way.roots), error)
            refused = error
    if not found:
        raise refused
    return found
