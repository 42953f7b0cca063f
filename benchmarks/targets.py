"""Do accuracy targets hold, and with how little in float? Writes targets.md.

On the smallest models beside an exhaustive greedy search; on every model for 3 dB more than nothing in float gives;
and for a measure of the task's own. On the samples that the search saw, and on others, in onnxruntime.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.auto import outputs
from benchmarks.integer_run import CLASSIFIERS
from benchmarks.machine import command, description
from benchmarks.markdown import table
from benchmarks.models import MODELS
from benchmarks.subjects import Subject, Turned, find_subject, turned_line_input
from benchmarks.tasks import (
    PLATFORM,
    Normalization,
    Sample,
    accepted_labels,
    add_data_options,
    add_model_options,
    best_path,
    classifier_input,
    line_input,
    recogniser_characters,
)
from calibrant import QuantizationSetting, QuantizationSettingFactory, export_graph, load_onnx_graph
from calibrant.api import quantize
from calibrant.engines import OnnxruntimeExecutor
from calibrant.engines.samples import Feed, iterate_samples
from calibrant.graph import Graph
from calibrant.passes import ExactSimulationPass, PassiveParameterQuantizePass, pipeline
from calibrant.precision import Metric, Reached, Targets, reach
from calibrant.precision.judging import Judge, least_sqnr
from calibrant.precision.reaching import measured_on
from calibrant.precision.rebuilding import Found, Models
from calibrant.precision.scoring import Run
from calibrant.precision.statistics import with_shared_values
from calibrant.quantizers import quantize_graph
from calibrant.table import CalibrationTable
from calibrant.table.collecting import collect_table, empty_table
from demo.measure import session

SMALLEST = ("Silero VAD", "PP-OCR line classifier")
SUBJECTS = (*SMALLEST, "EfficientNet-Lite0", "MobileNetV2", "MiniLM-L6", "PP-OCRv4 recogniser")
GAIN = 3.0  # dB
LONG = 2  # times as many in float as Calibrant: there the greedy search is given up
MET = -200.0  # dB: a target that is met with nothing in float

HEAD = """# Accuracy targets

SQNR: power of the FP32 outputs over that of the error, in dB; of probabilities, of their logarithms if that is less. A
target holds on each half of the samples that the search sees, which are those that were calibrated on: `reached` is the
worse half. `others` are samples that neither calibration nor the search has seen, all of them together, in onnxruntime
with integer kernels. Models run: whole quantized models, the one with nothing in float among them. Seconds: of the
search alone.

{description}

    {command}
"""
GREEDY = """
## Beside an exhaustive greedy search

Each time every operation that is left is tried in float, and the one stays that leaves the highest SQNR, on the same
samples, with the same scales. Seconds of the greedy search: until that target was met, or until it was given up, with
{long} times as many in float as Calibrant.
"""
SQNR = """
## {gain:g} dB more than with nothing in float
"""
DROP = """
## A measure of the task's own

Top-1 on labelled photos, lines whose direction was told, and lines that were read without a mistake, in percent:
`--max-drop` on half of the labelled items, and what becomes of it on the other half. Bits: of the weights; activations
have 8.
"""


def main() -> None:
    options = _options()
    console = Console(stderr=True, soft_wrap=True)
    parts = [HEAD.format(description=description(), command=command())]
    for section in (beside_greedy, with_targets, with_drops):
        if section.__name__ in options.sections:
            for part in section(options, console):
                parts.append(part)
                options.output.write_text("\n".join(parts) + "\n", encoding="utf-8")
    Console(soft_wrap=True).print("\n".join(parts), markup=False, highlight=False)
    console.print(f"written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "labelled", "lines", "text")
    add_model_options(parser, SUBJECTS, "targets.md")
    sections = [section.__name__ for section in (beside_greedy, with_targets, with_drops)]
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections, metavar="SECTION")
    parser.add_argument("--gains", nargs="+", type=float, default=[1.0, 2.0, 3.0], help="dB, beside the greedy search")
    parser.add_argument("--threads", type=int, help="all that there are")
    return parser.parse_args()


# Beside an exhaustive search


@dataclass(frozen=True)
class Opened:
    """A calibrated model, and what a search over it needs."""

    graph: Graph
    setting: QuantizationSetting
    feeds: list[Feed]
    executor: OnnxruntimeExecutor
    found: Found
    table: CalibrationTable

    @classmethod
    def of(cls, model: Path, samples: Sequence[Sample], threads: int | None) -> Opened:
        """The model with its scales and weights found, as `quantize` finds them."""
        setting = QuantizationSettingFactory.default_setting()
        graph = load_onnx_graph(model)
        quantize_graph(graph, PLATFORM, setting)
        executor = OnnxruntimeExecutor(graph, threads=threads)
        feeds = list(iterate_samples(samples, executor.input_specs))
        _, *passes = pipeline(setting, None)
        empty = empty_table(graph, PLATFORM, ["minmax", "percentile", "mse"], executor.description)
        collected = collect_table(with_shared_values(empty, graph), feeds, executor)
        collected = replace(collected, sketches=collected.apply(graph))
        executor.load_graph(graph)
        for step in passes:
            if not isinstance(step, (ExactSimulationPass, PassiveParameterQuantizePass)):
                step.optimize(graph)
        return cls(graph, setting, feeds, executor, Found.of(graph), collected)

    def reach(self, target: float) -> Reached:
        """By Calibrant's own search."""
        models = self.models()
        models.build(frozenset())
        targets = Targets(sqnr_db=target)
        return reach(self.graph, PLATFORM, self.setting, targets, self.feeds, self.executor, self.found, self.table)

    def models(self) -> Models:
        """Which differ in what is in float."""
        return Models(self.graph, PLATFORM, self.setting, self.found, self.table, self.executor.threads)

    def judge(self) -> Judge:
        """Of their SQNR, as the search has it."""
        return Judge(Targets(sqnr_db=0.0), measured_on(self.feeds, self.table), self.executor)


@dataclass(frozen=True)
class Step:
    """A greedy search so far."""

    sqnr_db: float
    in_float: int
    runs: int
    seconds: float


def greedy(models: Models, judge: Judge) -> Iterator[Step]:
    """From nothing in float on, an operation more each time: the one of all that leaves the highest SQNR."""
    start = time.perf_counter()
    left: frozenset[str] = frozenset()
    models.build(left)
    everything, runs, best = len(models.graph.operations), 1, judge.score(models.graph).sqnr_db
    while True:
        models.build(left)
        waiting = sorted(models.graph.operations)
        yield Step(best, everything - len(waiting), runs, time.perf_counter() - start)
        if not waiting:
            return
        found = {}
        for name in waiting:
            models.build(left | {name})
            found[name] = judge.score(models.graph).sqnr_db
        runs += len(found)
        name = max(found, key=found.__getitem__)
        left, best = left | {name}, found[name]


def beside_greedy(options: argparse.Namespace, console: Console) -> Iterator[str]:
    """The section on the smallest models."""
    yield GREEDY.format(long=LONG)
    for name in SMALLEST:
        subject = find_subject(name, options)
        if subject is None:
            console.print(f"[yellow]{name}: left out, its data are not given[/] (see --help)")
            continue
        opened = Opened.of(subject.model, subject.divided()[0], options.threads)
        plain = opened.reach(MET)
        headings = [f"{name}, {plain.operations} operations", "target", "reached", "in float", "models run", "seconds"]
        targets = [plain.score.sqnr_db + gain for gain in sorted(options.gains)]
        yield table(headings, greedy_rows(opened, targets, console)) + "\n"


def greedy_rows(opened: Opened, targets: Sequence[float], console: Console) -> list[list[str]]:
    """For each target the greedy search, and Calibrant's."""
    own = []
    for target in targets:
        start = time.perf_counter()
        own.append((opened.reach(target), time.perf_counter() - start))
    steps, rows = greedy(opened.models(), opened.judge()), []
    step = next(steps)
    for target, (reached, seconds) in zip(targets, own, strict=True):
        while step.sqnr_db < target and step.in_float < LONG * reached.in_float:
            step = next(steps)
            console.print(f"greedy: {step}", markup=False, highlight=False)
        rows += greedy_row(target, step, reached, seconds)
        console.print(rows[-2:], markup=False, highlight=False)
    return rows


def greedy_row(target: float, step: Step, reached: Reached, seconds: float) -> list[list[str]]:
    """Two lines: the greedy search, and Calibrant's."""
    own = [f"{reached.score.sqnr_db:.1f}", str(reached.in_float), str(reached.runs), f"{seconds:.0f}"]
    other = [f"{step.sqnr_db:.1f}", str(step.in_float), str(step.runs), f"{step.seconds:.0f}"]
    return [["greedy", f"{target:.1f}", *other], ["Calibrant", f"{target:.1f}", *own]]


# Targets in dB


def with_targets(options: argparse.Namespace, console: Console) -> Iterator[str]:
    """The section on every model."""
    rows = []
    for name in options.models:
        subject = find_subject(name, options)
        if subject is None:
            console.print(f"[yellow]{name}: left out, its data are not given[/] (see --help)")
            continue
        rows.append(target_row(subject, options.threads))
        console.print(rows[-1], markup=False, highlight=False)
    yield SQNR.format(gain=GAIN)
    headings = ["", "default", "target", "reached", "others: default", "others: reached", "in float", "of"]
    yield table([*headings, "models run", "seconds"], rows)


def target_row(subject: Subject, threads: int | None) -> list[str]:
    """One model."""
    calibration, measuring = subject.divided()
    exact = outputs(session(subject.model), measuring)

    def on_others(model: Path) -> float:
        return least_sqnr(exact, outputs(session(model), measuring))

    setting = QuantizationSettingFactory.default_setting()
    setting.target_sqnr = MET
    plain, plain_others, _ = searched(subject.model, calibration, setting, threads, None, on_others)
    target = setting.target_sqnr = plain.score.sqnr_db + GAIN
    reached, others, seconds = searched(subject.model, calibration, setting, threads, None, on_others)
    db = [plain.score.sqnr_db, target, reached.score.sqnr_db, plain_others, others]
    counts = [reached.in_float, reached.operations, reached.runs]
    return [subject.name, *(f"{number:.1f}" for number in db), *map(str, counts), f"{seconds:.0f}"]


def searched(
    model: Path,
    samples: Sequence[Sample],
    setting: QuantizationSetting,
    threads: int | None,
    metric: Metric | None,
    on_others: Callable[[Path], float],
) -> tuple[Reached, float, float]:
    """How the setting's target was reached, what the file is on other samples, and the seconds of the search."""
    graph, summary = quantize(model, samples, setting=setting, threads=threads, metric=metric)
    with tempfile.TemporaryDirectory(prefix="calibrant-benchmark-") as folder:
        int8 = Path(folder) / "int8.onnx"
        export_graph(graph, PLATFORM, int8)
        others = on_others(int8)
    if summary.target is None:
        raise RuntimeError(f"{model}: a setting with a target gave none")
    return summary.target, others, summary.seconds["search"]


# Drops of a metric

Right = Callable[[Run, Any], bool]  # whether a model is right about an item


@dataclass(frozen=True)
class Labelled:
    """Items with labels, and whether a model is right about one. The first half is what the metric is taken on.

    bits: of the weights, in each model that is tried.
    """

    subject: Subject
    items: Sequence[Any]
    right: Right
    max_drop: float
    bits: Sequence[int] = (8,)

    def metric(self, first: bool) -> Metric:
        """In percent, on the first half or on the other."""
        items = self.items[::2] if first else self.items[1::2]
        return lambda run: 100 * float(np.mean([self.right(run, item) for item in items]))


def find_labelled(name: str, options: argparse.Namespace) -> Labelled | None:
    """What is known of that model's data; None where they are not given."""
    subject = find_subject(name, options)
    if name in CLASSIFIERS and subject is not None and options.labelled:
        return Labelled(subject, accepted_labels(options.labelled), partial(_named, CLASSIFIERS[name]), 0.5, (8, 4))
    if name == "PP-OCR line classifier" and subject is not None:
        mixed = np.random.default_rng(0).permutation(len(subject.items))  # every other line is upside down
        return Labelled(subject, [subject.items[place] for place in mixed], _turned, 0.5)
    if name == "PP-OCRv4 recogniser" and subject is not None:
        characters = recogniser_characters(MODELS[name].path(options.cache))
        with open(options.lines / "labels.csv", newline="", encoding="utf-8") as file:
            rows = [(options.lines / row["file"], row["text"].replace(" ", "")) for row in csv.DictReader(file)]
        return Labelled(subject, rows, lambda run, row: _read(run, row, characters), 1.0)
    return None


def _named(normalization: Normalization, run: Run, item: tuple[Path, set[int]]) -> bool:
    return int(run(classifier_input(item[0], normalization))[0].argmax()) in item[1]


def _turned(run: Run, item: Turned) -> bool:
    return bool(run(turned_line_input(item))[0][0].argmax() == item.upside_down)


def _read(run: Run, row: tuple[Path, str], characters: Sequence[str]) -> bool:
    return best_path(run(line_input(row[0]))[0][0], characters).replace(" ", "") == row[1]


def with_drops(options: argparse.Namespace, console: Console) -> Iterator[str]:
    """The section on the tasks' own measures."""
    rows = []
    for name in options.models:
        labelled = find_labelled(name, options)
        if labelled is not None:
            for bits in labelled.bits:
                rows.append(drop_row(labelled, bits, options.threads))
                console.print(rows[-1], markup=False, highlight=False)
    yield DROP
    headings = ["", "FP32", "default", "max drop", "reached", "others: FP32", "others: default", "others: reached"]
    yield table([*headings, "in float", "of", "models run", "seconds"], rows)


def drop_row(labelled: Labelled, bits: int, threads: int | None) -> list[str]:
    """One model, its weights in so many bits."""
    subject = labelled.subject
    calibration, _ = subject.divided()
    metric, other = labelled.metric(True), labelled.metric(False)

    def on_others(model: Path) -> float:
        return float(other(running(model)))

    setting = QuantizationSettingFactory.default_setting()
    setting.quantize_parameter_setting.num_of_bits = bits
    setting.max_drop = 100.0
    plain, plain_others, _ = searched(subject.model, calibration, setting, threads, metric, on_others)
    setting.max_drop = labelled.max_drop
    reached, reached_others, seconds = searched(subject.model, calibration, setting, threads, metric, on_others)
    others = [on_others(subject.model), plain_others, reached_others]
    metrics = [reached.float_metric, plain.score.metric, labelled.max_drop, reached.score.metric, *others]
    counts = [reached.in_float, reached.operations, reached.runs]
    return [
        f"{subject.name}, {bits} bits",
        *(f"{number:.1f}" for number in metrics),
        *map(str, counts),
        f"{seconds:.0f}",
    ]


def running(model: Path) -> Run:
    """The model in onnxruntime, from one input to its outputs."""
    opened = session(model)
    name = opened.get_inputs()[0].name
    return lambda x: opened.run(None, {name: x})


if __name__ == "__main__":
    main()
