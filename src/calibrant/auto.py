"""`auto` with samples at hand: methods chosen by what reaches the outputs of the layers, and of the model."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from calibrant.analysis import Simulation, reader_errors, sqnr_db
from calibrant.core import CalibrantError, TargetPlatform
from calibrant.engines import Executor
from calibrant.engines.halves import content_of
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.passes import pipeline
from calibrant.passes.activations import activation_configs
from calibrant.passes.auto import AUTO, CANDIDATES, candidates_for, is_auto
from calibrant.passes.runtime import RuntimeCalibrationPass
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable
from calibrant.table.collecting import OnStep, collect_table, empty_table

log = logging.getLogger(__name__)

Choice = dict[str, str]  # the first value of each scale -> its method

MEASURED = 32  # samples on which models are compared
BYTES = 1 << 28  # that they may take
OF_LAYERS = 8  # of them, on which the layers' outputs are compared
BY_LAYER = "by layer"
MARGIN = 0.5  # dB by which it must be ahead: so many choices are partly luck with these samples


class Kept:
    """Passes samples on, and keeps some to measure with: always the same ones of the same samples.

    At most MEASURED of them, and BYTES. Those whose content is least, wherever in the order they come.
    """

    def __init__(self, samples: Iterable[Feed]) -> None:
        self._samples = samples
        self._heap: list[tuple[int, int, Feed]] = []
        self._bytes = 0

    def __iter__(self) -> Iterator[Feed]:
        for number, feed in enumerate(self._samples):
            self._consider(content_of(feed), number, feed)
            yield feed

    @property
    def samples(self) -> list[Feed]:
        """What was kept, the least content first."""
        return [feed for _, _, feed in sorted(self._heap, key=lambda entry: -entry[0])]

    def _consider(self, content: int, number: int, feed: Feed) -> None:
        if len(self._heap) == MEASURED and content >= -self._heap[0][0]:
            return
        heapq.heappush(self._heap, (-content, number, {name: array.copy() for name, array in feed.items()}))
        self._bytes += _size(feed)
        while len(self._heap) > MEASURED or (self._bytes > BYTES and len(self._heap) > 1):
            self._bytes -= _size(heapq.heappop(self._heap)[2])


def has_open_methods(graph: Graph) -> bool:
    """Whether a graph after `quantize_graph` has configs whose method is `auto`."""
    return any(is_auto(config) for config, _ in activation_configs(graph))


def choose_by_output(
    graph: Graph,
    platform: TargetPlatform,
    setting: QuantizationSetting,
    samples: Iterable[Feed],
    executor: Executor,
    table: CalibrationTable | None = None,
    on_step: OnStep | None = None,
) -> CalibrationTable:
    """Give the configs of `graph` whose method is `auto` the one that serves the model best; return the table to apply.

    table: of statistics collected before; None: they are collected from the samples.
    """
    kept = Kept(samples)
    if table is None:
        methods = sorted({config.observer_algorithm.casefold() for config, _ in activation_configs(graph)})
        empty = empty_table(graph, platform, [AUTO, *methods], executor.description)
        table = collect_table(empty, kept, executor, on_step=on_step)
    else:
        for number, _ in enumerate(kept, 1):
            if on_step is not None:
                on_step(number)
    name, choice, found = choose(graph, platform, setting, table, kept.samples, executor)
    quantize_graph(graph, platform, setting)
    assign(graph, choice)
    others = ", ".join(f"{other} {db:.1f}" for other, db in found.items() if other != name)
    graph.note(f"auto chose '{name}': {found[name]:.1f} dB at the outputs on {len(kept.samples)} samples ({others})")
    return table


def choose(
    graph: Graph,
    platform: TargetPlatform,
    setting: QuantizationSetting,
    table: CalibrationTable,
    samples: list[Feed],
    executor: Executor,
) -> tuple[str, Choice, dict[str, float]]:
    """The methods with which the quantized model errs least at its outputs, on the samples given.

    Compared are the models of the platform's own methods, of each method alone, of `auto` by the table, and the one in
    which every value has the method that errs least at the outputs of the operators reading it. Returns the name of
    the best, its methods, and the SQNR of each in dB. The quantization of the graph is another one afterwards.
    """
    table.check(graph)
    references = [executor.forward(feed) for feed in samples]
    choices = candidates(graph, platform, setting, table, samples[:OF_LAYERS], executor)
    found: dict[str, float] = {}
    for name, choice in choices.items():
        quantize_graph(graph, platform, setting)
        assign(graph, choice)
        try:
            table.apply(graph, threads=executor.threads)
        except CalibrantError as error:  # a method that cannot serve some value, say kl beyond 8 bits
            log.info("auto: %s is left out: %s", name, error)
            continue
        for step in pipeline(setting, None):
            if not isinstance(step, RuntimeCalibrationPass):
                step.optimize(graph)
        simulation = Simulation(graph, executor.threads)
        found[name] = _mean_sqnr(references, [simulation.run(feed) for feed in samples])
        log.info("auto: %s has %.2f dB", name, found[name])
    best = max(found, key=lambda name: found[name] - (MARGIN if name == BY_LAYER else 0))
    return best, choices[best], found


def candidates(
    graph: Graph,
    platform: TargetPlatform,
    setting: QuantizationSetting,
    table: CalibrationTable,
    samples: list[Feed],
    executor: Executor,
) -> dict[str, Choice]:
    """The choices to compare, by name."""
    own = replace(
        setting, quantize_activation_setting=replace(setting.quantize_activation_setting, calib_algorithm=None)
    )
    quantize_graph(graph, platform, own)
    default = {roots[0]: config.observer_algorithm for config, roots in activation_configs(graph)}
    quantize_graph(graph, platform, setting)
    open_roots = [roots for config, roots in activation_configs(graph) if is_auto(config)]
    found = {"the platform's own": {roots[0]: default[roots[0]] for roots in open_roots}}
    found |= {method: {roots[0]: method for roots in open_roots} for method in (*CANDIDATES, AUTO)}
    found[BY_LAYER] = by_layer(graph, table, samples, executor)
    return found


def by_layer(graph: Graph, table: CalibrationTable, samples: list[Feed], executor: Executor) -> Choice:
    """For each value of a graph after `quantize_graph` the method of least error at the outputs of its readers."""
    open_configs = [(c, roots) for c, roots in activation_configs(graph) if is_auto(c)]
    values = {id(group.config): group.values for group in graph.groups}
    tried, methods = [], []
    for config, roots in open_configs:
        tasks = candidates_for(config, roots)
        for task in tasks:
            task.solve(table.sketches)
        tried.append((values.get(id(config), roots), [task.draft for task in tasks]))
        methods.append([task.draft.observer_algorithm for task in tasks])
    errors = reader_errors(graph, executor, samples, tried)
    return {
        roots[0]: of[int(np.argmin(error))] for (_, roots), of, error in zip(open_configs, methods, errors, strict=True)
    }


def assign(graph: Graph, choice: Choice) -> None:
    """Give the configs of a graph after `quantize_graph` whose method is `auto` the ones chosen."""
    for config, roots in activation_configs(graph):
        if is_auto(config):
            config.observer_algorithm = choice[roots[0]]


def _mean_sqnr(references: list[list[np.ndarray]], found: list[list[np.ndarray]]) -> float:
    """The mean over the model's floating outputs, in dB; at most 200 each, which is exact for float32."""
    outputs = [i for i, array in enumerate(references[0]) if array.dtype.kind == "f"]
    each = [sqnr_db([r[i] for r in references], [f[i] for f in found]) for i in outputs]
    return float(np.mean(np.clip(np.nan_to_num(each, nan=-200.0), -200, 200))) if each else 0.0


def _size(feed: Feed) -> int:
    return sum(array.nbytes for array in feed.values())
