"""Quantized models of one graph that differ in their methods alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from calibrant.analysis import Simulation, reader_errors
from calibrant.core import CalibrantError, TargetPlatform, TensorQuantizationConfig
from calibrant.engines import Executor
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
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

Choice = tuple[str, ...]  # a method for each config whose method is `auto`, in the order of `CalibrationTable.check`
Ways = dict[str, Calibration]  # by the method's name what it found for one config
OWN = "the platform's own"


class Trials:
    """The graph with one choice of methods after another. table: its statistics, equalized as the graph is.

    What the models have in common is found once: the scale of every value by every method, and the weights.
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
        self.graph, self.executor = graph, executor
        self._platform, self._setting = platform, setting
        self._weights: dict[tuple[str, int], TensorQuantizationConfig] = {}
        own = replace(
            setting, quantize_activation_setting=replace(setting.quantize_activation_setting, calib_algorithm=None)
        )
        quantize_graph(graph, platform, own)
        equalized = equalize(graph, table.check(graph), table.sketches)
        self.table = replace(table, sketches=equalized.sketches)
        self._factors = equalized.factors
        self._anew(own)
        self._methods = [task.config.observer_algorithm.casefold() for task in self.table.check(graph)]
        self._anew()
        executor.load_graph(graph)
        self._tasks = self.table.check(graph)
        self._ways = self._solved()

    def choices(self) -> dict[str, Choice]:
        """By name: the platform's own methods, each method alone, and for each value the best by the table.

        Without those that do not serve every value, such as kl beyond 8 bits.
        """
        opened = self._open(self._methods)
        found = {OWN: tuple(opened)} | {method: (method,) * len(opened) for method in CANDIDATES} | self._by_table()
        serving = self._open(self._ways)
        return {
            name: choice
            for name, choice in found.items()
            if all(method in ways for method, ways in zip(choice, serving, strict=True))
        }

    def by_layer(self, samples: Sequence[Feed]) -> Choice:
        """For each value the method of least error at the outputs of the operators that read it, on these samples."""
        values = {id(group.config): group.values for group in self.graph.groups}
        tasks, ways = self._open(self._tasks), self._open(self._ways)
        tried = [
            (values.get(id(task.config), task.roots), [way.draft for way in of.values()])
            for task, of in zip(tasks, ways, strict=True)
        ]
        errors = reader_errors(self.graph, self.executor, samples, tried)
        return tuple(list(of)[int(error.argmin())] for of, error in zip(ways, errors, strict=True))

    def model(self, choice: Choice) -> Simulation:
        """The graph with these methods, quantized and ready to run: up to what passes do that run it again.

        Each sample runs on one thread, so that several may run side by side.
        """
        self._anew()
        methods = iter(choice)
        for task, ways in zip(self.table.check(self.graph), self._ways, strict=True):
            way = ways[next(methods)] if isinstance(task, AutoCalibration) else next(iter(ways.values()))
            replace(way, config=task.config).commit()
        for step in pipeline(self._setting, None):
            if not isinstance(step, (RuntimeCalibrationPass, OptimizationPass)):
                step.optimize(self.graph, threads=self.executor.threads)
            if isinstance(step, ParameterQuantizePass):
                self._weights = self._weights or solved_weights(self.graph)
        return Simulation(self.graph, threads=1)

    def prepare(self, choice: Choice) -> None:
        """Leave the graph as `quantize_graph` does, with these methods instead of `auto`, and its weights solved.

        But where output refinement is to come, which wants them in float: they are solved again behind it.
        """
        if self._setting.wants("output_refinement"):
            self._weights = {}
        self._anew()
        for task, method in zip(self._open(self.table.check(self.graph)), choice, strict=True):
            task.config.observer_algorithm = method

    def _anew(self, setting: QuantizationSetting | None = None) -> None:
        quantize_graph(self.graph, self._platform, setting or self._setting)
        equalize_again(self.graph, self._factors)
        keep_weights(self.graph, self._weights)

    def _open(self, each: Sequence[T]) -> list[T]:
        """Of a sequence with an item for each config, those of the configs whose method is `auto`."""
        return [one for one, task in zip(each, self._tasks, strict=True) if isinstance(task, AutoCalibration)]

    def _by_table(self) -> dict[str, Choice]:
        """For each value the method that errs least on the half of the statistics that its scale is not found on."""

        def best(task: Calibration) -> str:
            chosen = task.chosen(self.table.sketches) if isinstance(task, AutoCalibration) else task
            return chosen.draft.observer_algorithm

        with self._pool() as pool:
            try:
                return {AUTO: tuple(pool.map(best, self._open(self._tasks)))}
            except CalibrantError as error:  # of a half that is too poor for one of the methods
                log.info("auto: no choice by the table: %s", error)
                return {}

    def _solved(self) -> list[Ways]:
        """Of each config what each method finds in the table; those open are tried with the platform's own too."""
        tried = [
            candidates_for(task.config, task.roots, method)
            if isinstance(task, AutoCalibration)
            else [Calibration.of(task.config, task.roots, task.draft.observer_algorithm)]
            for task, method in zip(self._tasks, self._methods, strict=True)
        ]
        with self._pool() as pool:
            return list(pool.map(lambda ways: _served(ways, self.table.sketches), tried))

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
