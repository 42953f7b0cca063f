"""The road of one quantization: from a float model and samples, or a table, to a quantized graph and its summary."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from calibrant import __version__
from calibrant.auto import choose_by_output, has_open_methods
from calibrant.core import DataError, QuantizationStates, SettingError, TargetPlatform, unknown
from calibrant.engines import Executor, OnnxruntimeExecutor
from calibrant.engines.kept import Kept
from calibrant.engines.samples import Feed, iterate_samples
from calibrant.engines.saturation import sums_saturate
from calibrant.engines.session import usable_processors
from calibrant.engines.unpadding import unpadded
from calibrant.exporters import check_plan
from calibrant.graph import Graph, load_onnx_graph
from calibrant.observers.registry import known
from calibrant.passes import ExactSimulationPass, PassiveParameterQuantizePass, RuntimeCalibrationPass, pipeline
from calibrant.passes.activations import activation_configs
from calibrant.passes.auto import AUTO
from calibrant.passes.base import QuantizationPass
from calibrant.passes.calibration import MOVES
from calibrant.passes.optimization import OnLayer, OptimizationPass, StopsBetweenLayers
from calibrant.passes.parameter import check_weights
from calibrant.passes.runtime import warn_of_few
from calibrant.precision import Metric, OnSearch, Reached, Targets, reach
from calibrant.precision.rebuilding import Found
from calibrant.precision.statistics import with_shared_values
from calibrant.quantizers import quantize_graph, wants_vnni
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable
from calibrant.table.collecting import METHODS, collect_table, empty_table

log = logging.getLogger(__name__)

LAST = (ExactSimulationPass, PassiveParameterQuantizePass)  # what depends on every scale and every weight

Samples = Iterable[Any]
OnStep = Callable[[int], None]
OnRun = Callable[[int, int], None]


@dataclass
class QuantizationSummary:
    """What a quantization did, for people.

    values: how many activation scales were found. methods: by how many of them each method was used.
    samples: how many the model ran over. left_in_float: node name -> reason. notes: what was reported on the way.
    moving: value name -> how far apart its scales are that two halves of the samples give, as a share of its scale;
        those of more than MOVES. They would profit from more samples.
    seconds: time by stage; of each pass that optimizes, by its name.
    target: how the setting's `target_sqnr` or `max_drop` was reached, or what came of its `most_in_float`; None
        without them.
    table, kept: where they are wanted (`keep` of `quantize`), the statistics, of equalized values as these are now; and
        some of the samples.
    """

    platform: TargetPlatform
    values: int = 0
    methods: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    left_in_float: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    moving: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    target: Reached | None = None
    table: CalibrationTable | None = None
    kept: list[Feed] = field(default_factory=list)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Label and text of what was done, in short."""
        methods = ", ".join(f"{count} {method}" for method, count in self.methods.items())
        return [
            ("platform", self.platform.name),
            ("samples", str(self.samples)),
            ("scales", f"{self.values}, by {methods}" if methods else "none"),
            ("in float", f"{len(self.left_in_float)} operations" if self.left_in_float else "nothing"),
        ]


def quantize(
    model: str | Path | Graph,
    samples: Samples | None,
    *,
    platform: TargetPlatform | str = TargetPlatform.ONNXRUNTIME,
    setting: QuantizationSetting | None = None,
    steps: int | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
    executor: Executor | None = None,
    table: CalibrationTable | str | Path | None = None,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    memory_budget: int = 1 << 30,
    keep: bool = False,
    on_step: OnStep | None = None,
    on_run: OnRun | None = None,
    on_layer: OnLayer | None = None,
    metric: Metric | None = None,
    on_search: OnSearch | None = None,
    measure_latency: bool = False,
) -> tuple[Graph, QuantizationSummary]:
    """Quantize a float ONNX model by the samples; `export_graph` writes the result.

    samples: any iterable of samples (an array, a tuple or list in input order, a dict by input name), or onnxruntime's
        CalibrationDataReader; read once. Not needed where the setting leaves activations in float.
    platform: the runtime, or its name. setting: what is done; None: the default.
    steps: at most so many items of the samples; None: all. collate_fn: makes a sample of an item; None: it is one.
    executor: what runs the float model, with threads, providers and a budget of its own; None: onnxruntime, with these.
    threads: that run the model, unless an executor is given, and do the rest, such as rounding weights; None: all.
    providers: onnxruntime's execution providers; None: the CPU.
    memory_budget: bytes that observed values may take at a time: see `OnnxruntimeExecutor`.
    table: statistics that were collected before, or their file, instead of samples: the model does not run, and the
        result is what it would be with the samples of the table. With the method `auto`, samples beside it are
        measured on.
    keep: the summary gets the statistics of every method, and at most 256 of the samples, to report on. Without a
        table, ObservationError for methods that look at raw values.
    on_step: called with the number of samples done, for a progress bar. on_run: the same while the method `auto`
        compares models, with the number of runs done and of all. on_layer: called after each layer of a pass that
        optimizes, with the pass's name, the layers done and all of them; False stops there, and what is done is kept,
        as it is after Ctrl-C. Such passes see at most 256 of the samples, always the same ones of the same samples;
        where the setting names a mask, each without its padding, as far as that can be cut off.
    metric: a measure of the user's own, for the setting's `max_drop`: a function that is given a model (itself a
        function from a sample to the outputs, in order) and returns a number, of which more is better.
    on_search: called while a target is searched for, with what is being done, how much of it is, and of how much.
    measure_latency: with a target, also run the models of its curve, and the float model, in onnxruntime on the CPU
        with the executor's number of threads, and say how long each takes for one of the samples.

    Raises the errors of `calibrant.core.errors`; nothing is written to disk.
    """
    platform, setting = TargetPlatform.of(platform), QuantizationSetting.of(setting)
    check_methods(setting)
    table = CalibrationTable.load(table) if isinstance(table, str | Path) else table
    summary = QuantizationSummary(platform)
    graph = _planned(model, platform, setting, summary)
    targets = Targets.of(setting, metric, platform if measure_latency else None)
    if targets is not None:
        targets.check(graph)
    passes = pipeline(setting, steps)
    again = targets is not None or any(isinstance(step, OptimizationPass) for step in passes)
    sampled = setting.quantize_activation and table is None and bool(graph.groups)  # calibration reads them
    if samples is None:
        _refuse_without_samples(sampled, again, targets)
    measuring = samples is not None and has_open_methods(graph)
    if executor is None and (again or (setting.quantize_activation and (table is None or measuring))):
        with _timed(summary, "plan"):
            executor = OnnxruntimeExecutor(graph, providers, threads, memory_budget)
    if executor is not None and samples is not None and (again or measuring or keep):
        feeds = iterate_samples(samples, executor.input_specs, steps, collate_fn)
        samples, collate_fn = Kept(feeds, prepare=partial(unpadded, executor=executor)), None
    road = _Road(graph, platform, setting, summary, executor, samples, collate_fn, table, on_step, on_layer)
    if isinstance(samples, Kept) and (measuring or keep or targets is not None or not sampled):
        with _timed(summary, "calibrate"):
            road.collect(METHODS if keep else (), targets is not None, on_run)
    road.take([step for step in passes if not isinstance(step, LAST)], threads or usable_processors())
    found = Found.of(graph) if targets is not None else None
    road.take([step for step in passes if isinstance(step, LAST)], threads or usable_processors())
    kept = samples.samples if isinstance(samples, Kept) else []
    if targets is not None and found is not None and executor is not None:
        with _timed(summary, "search"):
            summary.target = reach(graph, platform, setting, targets, kept, executor, found, road.table, on_search)
            setting = summary.target.setting
    if keep:
        summary.table, summary.kept = road.table, kept
    _tell(summary, graph, executor)
    _warn_of_saturation(graph)
    _sign(graph, summary, setting)
    return graph, summary


def _planned(
    model: str | Path | Graph, platform: TargetPlatform, setting: QuantizationSetting, summary: QuantizationSummary
) -> Graph:
    """The model with a config for each value, as far as they are known without samples."""
    with _timed(summary, "load"):
        graph = model if isinstance(model, Graph) else load_onnx_graph(model)
    with _timed(summary, "plan"):
        quantize_graph(graph, platform, setting)
        check_plan(graph)
        check_weights(graph)
    return graph


def _refuse_without_samples(sampled: bool, again: bool, targets: Targets | None) -> None:
    """Raise for what cannot be done without samples. sampled, again: whether they are read to calibrate, or after."""
    if again:
        what = "a target is" if targets is not None else "the passes after calibration are"
        raise SettingError(f"{what} measured by running the model: that needs samples, beside a table as well")
    if sampled:
        raise DataError(
            "there are no samples, and scales of activations are found on samples: give some, or a table, or set "
            "quantize_activation to False, which leaves activations in float"
        )


@dataclass
class _Road:
    """A graph on its way. table: what its scales are solved from, once that is known; None: the samples themselves."""

    graph: Graph
    platform: TargetPlatform
    setting: QuantizationSetting
    summary: QuantizationSummary
    executor: Executor | None
    samples: Samples | None
    collate_fn: Callable[[Any], Any] | None
    table: CalibrationTable | None
    on_step: OnStep | None
    on_layer: OnLayer | None
    interrupted: bool = False

    def collect(self, methods: Iterable[str], shared: bool, on_run: OnRun | None) -> None:
        """Read the samples, which are kept, for a table or beside it. See `_statistics`."""
        if not isinstance(self.samples, Kept) or self.executor is None:
            return
        if has_open_methods(self.graph):
            self.table = choose_by_output(
                self.graph,
                self.platform,
                self.setting,
                self.samples,
                self.executor,
                self.table,
                self.on_step,
                on_run,
            )
        elif self.table is None and self.setting.quantize_activation:
            self.table = _statistics(
                self.graph, self.platform, self.samples, self.executor, self.on_step, methods, shared
            )
        else:
            self.samples.read(self.on_step)

    def take(self, passes: Iterable[QuantizationPass], threads: int) -> None:
        """Run these passes. Once one is interrupted, those that optimize are left out."""
        for step in passes:
            with _timed(self.summary, _stage_of(step)):
                if isinstance(step, OptimizationPass):
                    self._optimize(step)
                elif isinstance(step, RuntimeCalibrationPass) and self.table is not None:
                    self.table = replace(self.table, sketches=self.table.apply(self.graph, step.method, threads))
                    if self.executor is not None:
                        self.executor.load_graph(self.graph)  # as it is equalized
                else:
                    options = {"collate_fn": self.collate_fn, "on_step": self.on_step, "threads": threads}
                    step.optimize(self.graph, self.samples, self.executor, **options)

    def _optimize(self, step: OptimizationPass) -> None:
        if self.interrupted or not isinstance(self.samples, Kept):
            return
        with StopsBetweenLayers(self.on_layer) as layer:
            step.optimize(self.graph, self.samples.samples, self.executor, on_layer=layer)
        self.interrupted = layer.stopped
        if self.interrupted:
            self.graph.note("interrupted: the layers that were optimized before are kept")


def _stage_of(step: QuantizationPass) -> str:
    if isinstance(step, OptimizationPass):
        return step.name
    return "calibrate" if isinstance(step, RuntimeCalibrationPass) else "weights"


def _statistics(
    graph: Graph,
    platform: TargetPlatform,
    samples: Iterable[Feed],
    executor: Executor,
    on_step: OnStep | None,
    methods: Iterable[str],
    shared: bool,
) -> CalibrationTable:
    """The table of all that the methods of the graph's configs, and these, want to know.

    shared: of the values as well that share the scale of others.
    """
    own = {config.observer_algorithm.casefold() for config, _ in activation_configs(graph)}
    empty = empty_table(graph, platform, sorted({*methods, *own, "isotone"}), executor.description)
    empty = with_shared_values(empty, graph) if shared else empty
    table = collect_table(empty, samples, executor, on_step=on_step)
    warn_of_few(table.samples)
    return table


def _tell(summary: QuantizationSummary, graph: Graph, executor: Executor | None) -> None:
    """Write into the summary what became of the graph."""
    configs = [config for config, _ in activation_configs(graph) if config.state is QuantizationStates.ACTIVATED]
    summary.values = len(configs)
    summary.methods = dict(Counter(config.observer_algorithm for config in configs))
    summary.samples = graph.calibrated_samples
    summary.moving = dict(moving(graph))
    summary.left_in_float = dict(graph.left_in_float)
    summary.notes = [*graph.report, *(executor.report if executor else [])]


def _warn_of_saturation(graph: Graph) -> None:
    """Log a warning where the model would lose accuracy on a processor like this one."""
    if wants_vnni(graph) and sums_saturate():
        log.warning(
            "this processor (x86 without VNNI) adds products of uint8 and int8 in 16 bits, which overflow: on such "
            "processors the model is much less accurate than on others. To run it there, quantize with reduce_range "
            "(--reduce-range), or open it in onnxruntime with the session option session.x64quantprecision = 1, which "
            "is exact and slower"
        )


def _sign(graph: Graph, summary: QuantizationSummary, setting: QuantizationSetting) -> None:
    """Write into the graph what made it so, which a file of it will say."""
    graph.provenance = {
        "version": __version__,
        "platform": summary.platform.name,
        "method": ",".join(sorted(summary.methods)),
        "samples": str(summary.samples),
        "setting": setting.to_json(),
        "fingerprint": graph.fingerprint,
    }


def moving(graph: Graph) -> Iterator[tuple[str, float]]:
    """The values of a calibrated graph whose scales move by more than MOVES between two halves of the samples."""
    for config, roots in activation_configs(graph):
        moved = config.detail.get("moved", 0.0)
        if config.state is QuantizationStates.ACTIVATED and moved > MOVES:
            yield roots[0], moved


def check_methods(setting: QuantizationSetting) -> None:
    """Raise SettingError, with the nearest known name, for a method that is not registered."""
    named = [setting.quantize_activation_setting.calib_algorithm]
    named += [changes.get("calib_algorithm") for changes in setting.overrides.values()]
    for method in named:
        if method is not None and method.casefold() not in (*known(), AUTO):
            raise SettingError(unknown("method", method, [*known(), AUTO]))


class _timed:
    """Adds the seconds of a `with` block to a stage of the summary."""

    def __init__(self, summary: QuantizationSummary, stage: str) -> None:
        self.seconds, self.stage = summary.seconds, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + time.perf_counter() - self.start
