"""One quantization, from checked options to a file: what `calibrant quantize` does."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from calibrant.analysis import Analysis, analyse
from calibrant.api import export_graph, load_onnx_graph, quantize
from calibrant.cli.choices import Choices
from calibrant.cli.console import Console, Stages
from calibrant.cli.dry_run import show_plan
from calibrant.cli.output import beside, check_model, check_output, size_of
from calibrant.cli.reading import Reading, Running, naming_the_file
from calibrant.cli.reporting import check_report, report_quantization
from calibrant.cli.summary import Finished, show_summary
from calibrant.cli.tables import TableFile
from calibrant.cli.targets import show_worst
from calibrant.cli.words import calibrating, finding_scales, left_in_float
from calibrant.core import ModelError, QuantizationStates, SettingError, TargetPlatform
from calibrant.data.functions import load_function, load_module
from calibrant.engines import Executor
from calibrant.exporters import check_plan
from calibrant.graph import Graph
from calibrant.passes.auto import AUTO
from calibrant.passes.pipeline import runs_again
from calibrant.passes.runtime import warn_of_few
from calibrant.precision import Targets
from calibrant.quantization import check_methods
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting

ANALYSED = 8  # samples


@dataclass(frozen=True)
class Job:
    """A model, what becomes of it, and where it goes. report: where the page about it goes.

    metric: package.module:function, a measure of the user's own. analyse: whether to show which operations lose most.
    measure_latency: whether models on the way to a target are timed.
    """

    model: Path
    output: Path | None
    platform: TargetPlatform | None
    choices: Choices
    reading: Reading
    running: Running
    force: bool = False
    table: Path | None = None
    report: Path | None = None
    metric: str | None = None
    analyse: bool = False
    measure_latency: bool = False

    def show(self, console: Console) -> None:
        """Print what would be quantized, and how. Reads no samples and writes nothing."""
        setting = self._setting()
        check_model(self.model)
        source = self._source(setting)
        platform = self._platform(source)
        graph = load_onnx_graph(self.model)
        quantize_graph(graph, platform, setting)
        check_plan(graph)
        if source is not None:
            with source.named():
                source.table.check(graph, setting.quantize_activation_setting.calib_algorithm)
        show_plan(console, graph, platform)

    def run(self, console: Console) -> None:
        """Quantize, write the file, print the summary. What can be refused is refused before the work starts."""
        started = time.perf_counter()
        check_model(self.model)
        setting = self._setting()
        source = self._source(setting)
        platform = self._platform(source)
        output = self._output(platform)
        metric = None if self.metric is None else load_function(self.metric, "model")
        Targets.of(setting, metric, platform if self.measure_latency else None)  # refused here what cannot be reached
        reads = self._reads(setting, source)
        with Stages(console) as stages:
            stages.begin("loading the model")
            graph = load_onnx_graph(self.model)
            size = size_of(self.model, graph)
            executor, samples = None, None
            if reads:
                executor = self.running.executor(graph)
                samples = self.reading.open(executor.input_specs)
                stages.begin(calibrating(), samples.expected, then=finding_scales())
            loaded = time.perf_counter()
            with naming_the_file(samples), source.named() if source else nullcontext():
                graph, summary = quantize(
                    graph,
                    samples,
                    platform=platform,
                    setting=setting,
                    steps=samples.steps if samples is not None else None,
                    executor=executor,
                    table=source.table if source else None,
                    threads=self.running.threads,
                    keep=self.report is not None,
                    on_step=lambda _: stages.done(samples.given if samples is not None else 0),
                    on_run=stages.comparing,
                    on_layer=stages.optimizing,
                    metric=metric,
                    on_search=stages.searching,
                    measure_latency=self.measure_latency,
                )
            refuse_nothing(graph, platform)
            exporting = time.perf_counter()
            stages.begin("writing")
            export_graph(graph, platform, output)
        seconds = {
            "load": summary.seconds.pop("load", 0.0) + loaded - started,
            **summary.seconds,
            "export": time.perf_counter() - exporting,
        }
        if source is not None:
            warn_of_few(source.table.samples)
        idle = self.reading.data is not None and samples is None
        notes = ["--data was not read: weights alone need no samples"] if idle else []
        done = Finished(
            self.model,
            size,
            output,
            graph,
            setting,
            summary,
            samples,
            seconds,
            notes,
            self.reading,
            source,
            self.report,
        )
        if self.report is not None:
            report_quantization(console, done, executor, self.report, self.running.threads)
        show_summary(console, done)
        if self.analyse and executor is not None:
            show_worst(console, self._analysed(console, graph, executor))

    def _analysed(self, console: Console, graph: Graph, executor: Executor) -> Analysis:
        """Of the quantized graph, on the first of the samples."""
        with Stages(console) as stages:
            samples = self.reading.open(executor.input_specs)
            stages.begin("analysing", ANALYSED)
            with naming_the_file(samples):
                return analyse(graph, samples, executor=executor, steps=ANALYSED, at_outputs=True, on_step=stages.done)

    def _output(self, platform: TargetPlatform) -> Path:
        """Where the model goes, if that, and the report, can be written. SettingError where it was not said."""
        if self.output is None:
            raise SettingError("--output is missing: say where the quantized model goes (or --dry-run)")
        reads = (self.table, self.choices.setting, self.reading.data)
        output = check_output(self.output, self.force, self.model, beside(self.output, platform), reads=reads)
        if self.report is not None:
            check_report(self.report, self.force, self.model, output)
        return output

    def _reads(self, setting: QuantizationSetting, source: TableFile | None) -> bool:
        """Whether samples are read, and the model is run on them. SettingError where that must be without --data."""
        calibrates = setting.quantize_activation and (source is None or self.reading.data is not None)
        if calibrates and self.reading.data is None:
            raise SettingError("--data is missing: calibration needs samples (or a --table, or --weights-only)")
        measures = self._measures(setting)
        if measures and self.reading.data is None:
            raise SettingError("--data is missing: what is done after calibration is measured on samples")
        return calibrates or measures

    def _measures(self, setting: QuantizationSetting) -> bool:
        """Whether the model is run again after calibration."""
        return runs_again(setting) or setting.has_target or self.analyse

    def _source(self, setting: QuantizationSetting) -> TableFile | None:
        """The table that stands in for samples. SettingError for options that contradict it."""
        if self.table is None:
            return None
        measuring = setting.quantize_activation_setting.calib_algorithm == AUTO or self._measures(setting)
        if not (measuring and self.reading.data is not None):
            self.reading.refuse_beside(str(self.table))
        if not setting.quantize_activation:
            raise SettingError("--table is about activations, and --weights-only leaves those in float")
        return TableFile.open(self.table)

    def _platform(self, source: TableFile | None) -> TargetPlatform:
        """The one that was asked for; else the one that the table is for; else onnxruntime."""
        if self.platform is not None:
            return self.platform
        return source.platform if source is not None else TargetPlatform.ONNXRUNTIME

    def _setting(self) -> QuantizationSetting:
        for module in self.running.imports:
            load_module(module)
        setting = self.choices.to_setting()
        check_methods(setting)
        return setting


def refuse_nothing(graph: Graph, platform: TargetPlatform) -> None:
    """Raise ModelError when no value and no weight of the graph is quantized: the file would be the float model."""
    if graph.groups or any(config.state is not QuantizationStates.FP32 for config in graph.edges.values()):
        return
    why = "; ".join(f"{nodes}: {reason}" for reason, nodes in left_in_float(graph))
    raise ModelError(f"nothing in the model is quantized for {platform.name}" + (f" ({why})" if why else ""))
