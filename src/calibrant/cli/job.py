"""One quantization, from checked options to a file: what `calibrant quantize` does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrant.api import check_methods, export_graph, load_onnx_graph, quantize
from calibrant.cli.choices import Choices
from calibrant.cli.console import Console, Stages
from calibrant.cli.dry_run import show_plan
from calibrant.cli.output import check_model, check_output, size_of
from calibrant.cli.summary import Finished, show_summary
from calibrant.cli.words import left_in_float
from calibrant.core import DataError, ModelError, QuantizationStates, SettingError, TargetPlatform
from calibrant.data import Preprocessing, Samples, open_samples
from calibrant.data.functions import load_module
from calibrant.data.inputs import ModelInput
from calibrant.engines import OnnxruntimeExecutor
from calibrant.graph import Graph
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting


@dataclass(frozen=True)
class Reading:
    """How samples are read; `images` holds the fields of `Preprocessing`."""

    data: str | None = None
    samples: int | None = None
    batch_size: int | None = None
    skip_bad: bool = False
    images: dict[str, Any] = field(default_factory=dict)

    def open(self, inputs: Sequence[ModelInput]) -> Samples:
        """The samples, none of them read yet. Raises as `open_samples` does."""
        return open_samples(
            self.data or "",
            inputs,
            preprocessing=Preprocessing(**self.images),
            samples=self.samples,
            batch_size=self.batch_size,
            skip_bad=self.skip_bad,
        )


@dataclass(frozen=True)
class Running:
    """How the model runs, and the modules to import before."""

    threads: int | None = None
    providers: list[str] | None = None
    memory_budget: int | None = None
    imports: list[str] = field(default_factory=list)

    def executor(self, graph: Graph) -> OnnxruntimeExecutor:
        """What runs the graph. Raises ModelError where onnxruntime cannot, SettingError for unknown providers."""
        return OnnxruntimeExecutor(graph, self.providers, self.threads, self.memory_budget or 1 << 30)


@dataclass(frozen=True)
class Job:
    """A model, what becomes of it, and where it goes."""

    model: Path
    output: Path | None
    platform: TargetPlatform
    choices: Choices
    reading: Reading
    running: Running
    force: bool = False

    def show(self, console: Console) -> None:
        """Print what would be quantized, and how. Reads no samples and writes nothing."""
        setting = self._setting()
        graph = load_onnx_graph(check_model(self.model))
        quantize_graph(graph, self.platform, setting)
        show_plan(console, graph, self.platform)

    def run(self, console: Console) -> None:
        """Quantize, write the file, print the summary. What can be refused is refused before the work starts."""
        started = time.perf_counter()
        check_model(self.model)
        if self.output is None:
            raise SettingError("--output is missing: say where the quantized model goes (or --dry-run)")
        output = check_output(self.output, self.model, self.platform, self.force)
        setting = self._setting()
        if setting.quantize_activation and self.reading.data is None:
            raise SettingError("--data is missing: calibration needs samples (or --weights-only)")
        with Stages(console) as stages:
            stages.begin("loading the model")
            graph = load_onnx_graph(self.model)
            size = size_of(self.model, graph)
            executor, samples = None, None
            if setting.quantize_activation:
                executor = self.running.executor(graph)
                samples = self.reading.open(executor.input_specs)
                stages.begin("calibrating", samples.expected)
            loaded = time.perf_counter()
            graph, summary = _named(samples, graph, self.platform, setting, executor, stages)
            refuse_nothing(graph, self.platform)
            exporting = time.perf_counter()
            stages.begin("writing")
            export_graph(graph, self.platform, output)
        seconds = {
            "load": summary.seconds.pop("load", 0.0) + loaded - started,
            **summary.seconds,
            "export": time.perf_counter() - exporting,
        }
        idle = self.reading.data is not None and samples is None
        notes = ["--data was not read: weights alone need no samples"] if idle else []
        show_summary(console, Finished(self.model, size, output, graph, setting, summary, samples, seconds, notes))

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


def _named(
    samples: Samples | None,
    graph: Graph,
    platform: TargetPlatform,
    setting: QuantizationSetting,
    executor: OnnxruntimeExecutor | None,
    stages: Stages,
) -> Any:
    """`api.quantize`, whose errors about a sample also say which file it came from."""
    try:
        return quantize(
            graph,
            samples,
            platform=platform,
            setting=setting,
            steps=samples.steps if samples is not None else None,
            executor=executor,
            on_step=lambda _: stages.done(samples.given if samples is not None else 0),
        )
    except DataError as error:
        if samples is None or not samples.last or samples.last in str(error):
            raise
        raise DataError(f"{error} (the last one read: {samples.last})") from error
