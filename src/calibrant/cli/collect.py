"""From samples to a table: what `calibrant calibrate` does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrant.api import calibrate, load_onnx_graph
from calibrant.cli.choices import Choices
from calibrant.cli.console import Console, Stages
from calibrant.cli.output import check_model, check_output, check_writable
from calibrant.cli.reading import Reading, Running, naming_the_file
from calibrant.cli.summary import alike, samples_in_words
from calibrant.cli.words import calibrating, finding_scales, left_in_float, masked_rows, megabytes
from calibrant.core import ModelError, SettingError, TargetPlatform
from calibrant.data import Samples
from calibrant.data.functions import load_module
from calibrant.data.paths import count
from calibrant.distributed import BLOCK_SIZE, RayCluster
from calibrant.graph import Graph
from calibrant.passes.activations import activation_configs
from calibrant.passes.runtime import warn_of_few
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable
from calibrant.table.collecting import METHODS

EVERY = 64  # batches between checkpoints


@dataclass(frozen=True)
class Keeping:
    """Where and how often what was collected so far is kept."""

    checkpoint: Path | None = None
    every: int | None = None

    def check(self, output: Path) -> None:
        """Raise SettingError for options that contradict each other, ExportError for what cannot be written."""
        if self.checkpoint is None:
            if self.every is not None:
                raise SettingError("--every says how often the checkpoint is written: add --checkpoint FILE")
            return
        if self.checkpoint.resolve() == output.resolve():
            raise SettingError(f"the checkpoint '{self.checkpoint}' is the output: give it a name of its own")
        check_writable(self.checkpoint, "the checkpoint")

    def interruption(self) -> str:
        """What is said when the run is interrupted."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return "interrupted; nothing was written"
        return f"interrupted; the same command goes on from the checkpoint '{self.checkpoint}'"


@dataclass(frozen=True)
class Sharing:
    """The Ray cluster that does the work, if any."""

    address: str | None = None
    workers: int | None = None
    block_size: int | None = None

    def cluster(self, threads: int | None, keeping: Keeping) -> RayCluster | None:
        """None: this process does the work. Raises SettingError for options that contradict each other."""
        if self.address is None:
            for option, value in {"--workers": self.workers, "--block-size": self.block_size}.items():
                if value is not None:
                    raise SettingError(f"{option} is about a Ray cluster: add --ray")
            return None
        if keeping.checkpoint is not None:
            raise SettingError("--checkpoint is for one process; Ray does again what is lost: leave --checkpoint out")
        return RayCluster(self.address, self.workers, threads or 1, self.block_size or BLOCK_SIZE)


@dataclass(frozen=True)
class Collecting:
    """A model, the samples, what is to be collected of them, and where it goes."""

    model: Path
    output: Path | None
    platform: TargetPlatform
    methods: Sequence[str] | None
    choices: Choices
    reading: Reading
    running: Running
    keeping: Keeping
    sharing: Sharing
    force: bool = False

    def run(self, console: Console) -> None:
        """Collect, write the table, print the summary. What can be refused is refused before the work starts."""
        started = time.perf_counter()
        check_model(self.model)
        if self.output is None:
            raise SettingError("--output is missing: say where the table goes")
        output = check_output(self.output, self.force, self.model, example="model.table", reads=[self.reading.data])
        self.keeping.check(output)
        cluster = self.sharing.cluster(self.running.threads, self.keeping)
        if self.reading.data is None:
            raise SettingError("--data is missing: calibration needs samples")
        for module in self.running.imports:
            load_module(module)
        setting = self.choices.to_setting()
        try:
            with Stages(console) as stages:
                stages.begin("loading the model")
                graph = self._graph(setting)
                executor = self.running.executor(graph)
                samples = self.reading.open(executor.input_specs)
                if cluster is not None:
                    samples.parts()  # refuses what cannot be shared out
                stages.begin(calibrating(), samples.expected, then=finding_scales())
                loaded = time.perf_counter()
                with naming_the_file(samples):
                    table = calibrate(
                        graph,
                        samples,
                        platform=self.platform,
                        setting=setting,
                        steps=samples.steps,
                        methods=self.methods or METHODS,
                        executor=executor,
                        checkpoint=self.keeping.checkpoint,
                        every=self.keeping.every or EVERY,
                        ray=cluster,
                        on_step=lambda step: stages.done(
                            samples.given if cluster is None else min(step * samples.batch, samples.taken)
                        ),
                    )
                collected = time.perf_counter()
                stages.begin("writing")
                table.save(output)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self.keeping.interruption()) from None
        if self.keeping.checkpoint is not None:
            self.keeping.checkpoint.unlink(missing_ok=True)
        warn_of_few(table.samples)
        seconds = {"load": loaded - started, "calibrate": collected - loaded, "write": time.perf_counter() - collected}
        notes = [*graph.report, *executor.report]
        show_collected(console, Collected(self.model, output, self.platform, table, samples, seconds, notes))

    def _graph(self, setting: QuantizationSetting) -> Graph:
        """The model, planned. ModelError where no value of it would be quantized."""
        graph = load_onnx_graph(self.model)
        quantize_graph(graph, self.platform, setting)
        if not any(True for _ in activation_configs(graph)):
            why = "; ".join(f"{nodes}: {reason}" for reason, nodes in left_in_float(graph))
            raise ModelError(
                f"no value of the model is quantized for {self.platform.name}, so there is nothing to collect"
                + (f" ({why})" if why else "")
            )
        return graph


@dataclass(frozen=True)
class Collected:
    """A table that is done and written. seconds: time by stage, in order."""

    model: Path
    output: Path
    platform: TargetPlatform
    table: CalibrationTable
    samples: Samples
    seconds: dict[str, float]
    notes: list[str]


def show_collected(console: Console, done: Collected) -> None:
    """Print the summary on stdout, warnings included. Nothing if quiet."""
    hint = f"calibrant quantize {done.model} --table {done.output} --output {done.model.stem}.int8.onnx"
    title = f"{done.model.name}, statistics for {done.platform.name}"
    console.summary(title, rows(done, verbose=console.live), [("written to", str(done.output)), ("next", hint)])


def rows(done: Collected, verbose: bool = False) -> Iterator[tuple[str, str]]:
    """Label and text of each line, in order."""
    table = done.table
    yield "samples", samples_in_words(done.samples, table.samples)
    yield from (("", note) for note in done.samples.notes)
    yield from masked_rows(table.settings.get("mask"))
    methods = table.settings["methods"].replace(",", ", ")
    yield "statistics", f"of {count(len(table), 'value')}, for {methods}"
    yield from (("note", note) for note in (done.notes if verbose else alike(done.notes)))
    stages = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in done.seconds.items() if spent >= 0.05)
    reading = f" (waiting for samples: {done.samples.seconds:.1f} s)" if done.samples.seconds else ""
    yield "time", f"{sum(done.seconds.values()):.1f} s" + (f": {stages}{reading}" if stages else "")
    yield "size", megabytes(done.output.stat().st_size)
