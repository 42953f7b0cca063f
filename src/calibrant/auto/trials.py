"""Quantized models of one graph that differ in their methods alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from calibrant.analysis import Simulation, reader_errors
from calibrant.core import CalibrantError, TargetPlatform, TensorQuantizationConfig
from calibrant.engines import OnnxruntimeExecutor
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.passes import ParameterQuantizePass, pipeline
from calibrant.passes.auto import AUTO, CANDIDATES, AutoCalibration, candidates_for
from calibrant.passes.calibration import Calibration
from calibrant.passes.parameter import keep_weights, solved_weights
from calibrant.passes.runtime import RuntimeCalibrationPass
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable

log = logging.getLogger(__name__)

Choice = tuple[str, ...]  # a method for each config whose method is `auto`, in the order of `CalibrationTable.check`

OWN = "the platform's own"


class Trials:
    """The graph with one choice of methods after another.

    What all of them have in common is found once: the scale of every value by every method, and the weights.
    Raises as `CalibrationTable.check` does, and the method's own error where none at all serves a value.
    """

    def __init__(
        self,
        graph: Graph,
        platform: TargetPlatform,
        setting: QuantizationSetting,
        table: CalibrationTable,
        executor: OnnxruntimeExecutor,
    ) -> None:
        self.graph, self.executor = graph, executor
        self._platform, self._setting, self._table = platform, setting, table
        self._weights: dict[tuple[str, int], TensorQuantizationConfig] = {}
        own = replace(
            setting, quantize_activation_setting=replace(setting.quantize_activation_setting, calib_algorithm=None)
        )
        quantize_graph(graph, platform, own)
        methods = [task.config.observer_algorithm.casefold() for task in table.check(graph)]
        self._anew()
        tasks = table.check(graph)
        self._ways = self._solved(tasks, methods)
        joined = list(zip(tasks, self._ways, methods, strict=True))
        self._open = [(task, ways) for task, ways, _ in joined if isinstance(task, AutoCalibration)]
        self._own = tuple(method for task, _, method in joined if isinstance(task, AutoCalibration))

    def choices(self) -> dict[str, Choice]:
        """By name: the platform's own methods, each method alone, and for each value the best by the table.

        Without those that do not serve every value, such as kl beyond 8 bits.
        """
        found = {OWN: self._own}
        found |= {method: (method,) * len(self._open) for method in CANDIDATES}
        found |= self._by_table()
        return {n: c for n, c in found.items() if all(m in of for m, (_, of) in zip(c, self._open, strict=True))}

    def _by_table(self) -> dict[str, Choice]:
        """For each value the method that errs least on the half of the statistics that its scale is not found on."""

        def best(task: AutoCalibration) -> str:
            return task.chosen(self._table.sketches).draft.observer_algorithm

        with ThreadPoolExecutor(self.executor.threads, thread_name_prefix="calibrant-solve") as pool:
            try:
                return {AUTO: tuple(pool.map(best, [task for task, _ in self._open]))}
            except CalibrantError as error:  # of a half that is too poor for one of the methods
                log.info("auto: no choice by the table: %s", error)
                return {}

    def by_layer(self, samples: Sequence[Feed]) -> Choice:
        """For each value the method of least error at the outputs of the operators that read it, on these samples."""
        values = {id(group.config): group.values for group in self.graph.groups}
        tried = [
            (values.get(id(task.config), task.roots), [way.draft for way in ways.values()]) for task, ways in self._open
        ]
        errors = reader_errors(self.graph, self.executor, samples, tried)
        return tuple(list(ways)[int(error.argmin())] for (_, ways), error in zip(self._open, errors, strict=True))

    def model(self, choice: Choice) -> Simulation:
        """The graph with these methods, quantized and ready to run: each sample on one thread, several side by side."""
        self._anew()
        methods = iter(choice)
        for task, ways in zip(self._table.check(self.graph), self._ways, strict=True):
            way = ways[next(methods)] if isinstance(task, AutoCalibration) else next(iter(ways.values()))
            replace(way, config=task.config).commit()
        for step in pipeline(self._setting, None):
            if not isinstance(step, RuntimeCalibrationPass):
                step.optimize(self.graph)
            if isinstance(step, ParameterQuantizePass):
                self._weights = self._weights or solved_weights(self.graph)
        return Simulation(self.graph, threads=1)

    def prepare(self, choice: Choice) -> None:
        """Leave the graph as `quantize_graph` does, with these methods instead of `auto`, and its weights solved."""
        self._anew()
        methods = iter(choice)
        for task in self._table.check(self.graph):
            if isinstance(task, AutoCalibration):
                task.config.observer_algorithm = next(methods)

    def _anew(self) -> None:
        quantize_graph(self.graph, self._platform, self._setting)
        keep_weights(self.graph, self._weights)

    def _solved(self, tasks: Sequence[Calibration], own: Sequence[str]) -> list[dict[str, Calibration]]:
        """Of each task, by the method's name, what was found; those open are tried with the platform's own as well."""
        ways = [
            {way.draft.observer_algorithm.casefold(): way for way in candidates_for(task.config, task.roots, method)}
            if isinstance(task, AutoCalibration)
            else {task.draft.observer_algorithm.casefold(): task}
            for task, method in zip(tasks, own, strict=True)
        ]
        with ThreadPoolExecutor(self.executor.threads, thread_name_prefix="calibrant-solve") as pool:
            return list(pool.map(self._served, ways))

    def _served(self, ways: dict[str, Calibration]) -> dict[str, Calibration]:
        """Those that find a scale. Raises the error of one where none does."""
        found: dict[str, Calibration] = {}
        for name, way in ways.items():
            try:
                way.find(self._table.sketches)
                found[name] = way
            except CalibrantError as error:
                log.info("auto: %s does not serve '%s': %s", name, ", ".join(way.roots), error)
                refused = error
        if not found:
            raise refused
        return found
