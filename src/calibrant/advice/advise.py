"""Compare two models, and find out what would be better: in one pass over the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from calibrant.advice.fixes import METHODS, Fix, OnRun, Trials, find_fixes
from calibrant.analysis import Comparison, compare
from calibrant.analysis.outputs import Metric, together
from calibrant.core import CalibrantError, TargetPlatform
from calibrant.engines import OnnxruntimeExecutor
from calibrant.engines.executor import Collect
from calibrant.engines.samples import Feed
from calibrant.engines.saturation import sums_saturate
from calibrant.exporters.provenance import PREFIX
from calibrant.graph import Graph, load_onnx_graph
from calibrant.passes.runtime import SampleCount
from calibrant.quantizers import quantize_graph, table_of
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable
from calibrant.table.collecting import empty_table

BLOCK = 1 << 26  # bytes of samples that are collected from at once


@dataclass
class Advice:
    """A comparison, and other ways to quantize the float model, the largest gain first.

    platform: that the fixes are for. base_db: SQNR of the outputs of the other model, which they are measured against.
    refused: a sentence on each way that could not be tried. why_none: in one sentence, where nothing was tried.
    """

    comparison: Comparison
    platform: TargetPlatform
    base_db: float = float("nan")
    fixes: list[Fix] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    why_none: str = ""


def advise(
    float_model: str | Path,
    other_model: str | Path,
    samples: Iterable[Any],
    collate_fn: Callable[[Any], Any] | None = None,
    on_step: Callable[[int], None] | None = None,
    *,
    metric: Metric | None = None,
    layers: bool = True,
    fixes: bool = True,
    on_run: OnRun | None = None,
    on_trial: OnRun | None = None,
) -> Advice:
    """`calibrant.analysis.compare`, and for the layers that do most to the outputs what would help.

    Every fix quantizes the float model anew, with what these samples show of it, for the platform that the other model
    says it is for (onnxruntime, where it says nothing), and is measured as the layers are, on the same samples. Where
    the other model has a reduced range, or integer sums saturate on this processor, fixes have a reduced range.
    layers, fixes: False for less: outputs alone, or nothing tried; without layers there are no fixes.
    on_trial: called with the number of ways tried, and of all.

    Raises as `compare` does. What keeps fixes from being tried raises nothing: see `Advice.why_none`.
    """
    said = _said(Path(other_model))
    platform = platform_of(said)
    if not (layers and fixes):
        found = compare(
            float_model, other_model, samples, collate_fn, on_step, metric=metric, layers=layers, on_run=on_run
        )
        return Advice(found, platform, why_none="it was not asked for")
    try:
        graph = load_onnx_graph(float_model)
        quantize_graph(graph, platform)
        executor = OnnxruntimeExecutor(graph)
        empty = _generous(empty_table(graph, platform, [m for m in METHODS if m], executor.description), graph)
    except CalibrantError as error:
        found = compare(float_model, other_model, samples, collate_fn, on_step, metric=metric, on_run=on_run)
        return Advice(found, platform, why_none=f"{float_model} cannot be quantized anew: {error}")
    with _collecting(executor, empty) as table:
        found = compare(
            float_model,
            other_model,
            samples,
            collate_fn,
            on_step,
            metric=metric,
            on_run=on_run,
            on_feed=table.take,
        )
        table.flush()
    advice = Advice(found, platform)
    errors = found.layers
    if errors is None or not errors.worst:
        advice.why_none = "no layer differs" if errors is not None else "it is not known which layers differ"
        return advice
    known = {node.name for node in graph.model.graph}
    worst = [layer.name for layer in errors.worst if layer.kind != "input" and layer.name in known]
    try:
        saturates = table_of(platform).on_x86 and sums_saturate()
        reduced = saturates or has_reduced_range(said)
        trials = Trials(float_model, executor, platform, table.found, found.kept, reduced)
        advice.base_db = errors.base_db
        if saturates:  # as it runs here, not as its layers say
            ran = compare(float_model, other_model, found.kept, layers=False)
            advice.base_db = together(ran.outputs.values()).sqnr_db
        advice.fixes, advice.refused = find_fixes(trials, advice.base_db, worst, on_trial)
    except CalibrantError as error:
        advice.why_none = f"{float_model} cannot be quantized anew: {error}"
    return advice


def platform_of(said: Mapping[str, str]) -> TargetPlatform:
    """The platform that an exported model's metadata name; onnxruntime's where they name none."""
    named = said.get(f"{PREFIX}platform", "")
    return TargetPlatform.of(named) if named in TargetPlatform.__members__ else TargetPlatform.ONNXRUNTIME


def has_reduced_range(said: Mapping[str, str]) -> bool:
    """Whether an exported model's metadata say that it was quantized with `reduce_range`."""
    try:
        setting = QuantizationSetting.from_json(said.get(f"{PREFIX}setting", "{}"))
    except CalibrantError:  # another version's
        return False
    return setting.quantize_activation_setting.reduce_range


def _said(path: Path) -> dict[str, str]:
    """A model's metadata."""
    try:
        return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    except Exception:  # protobuf's own: `compare` says what is wrong with the file
        return {}


def _generous(table: CalibrationTable, graph: Graph) -> CalibrationTable:
    """The empty table with all values beside that share a scale: where layers stay in float, others stand in front."""
    wanted = {name: sketch.spec for name, sketch in table.sketches.even.items()}
    for group in [*graph.groups, *graph.float_outputs]:
        specs = [wanted[root] for root in group.roots if root in wanted]
        for name in group.values:
            if specs and name not in wanted:
                wanted[name] = replace(specs[0], channel_axis=graph.channel_axis_of(name), isotone_axis=None)
    return CalibrationTable.empty(wanted, table.fingerprint, table.engine, table.settings)


class _Collected:
    """A table that grows by samples that are handed to it one by one."""

    def __init__(self, collect: Collect, empty: CalibrationTable) -> None:
        self._collect, self._empty, self.found = collect, empty, empty
        self._waiting: list[Feed] = []
        self._bytes = 0

    def take(self, feed: Feed) -> None:
        """Collect from this sample, now or with the next ones: several of them run side by side."""
        self._waiting.append(feed)
        self._bytes += sum(array.nbytes for array in feed.values())
        if self._bytes >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Collect from all that were handed over."""
        if self._waiting:
            counted = SampleCount(self._waiting)
            halves = self._collect(counted)
            self.found = self.found.merge(replace(self._empty, sketches=halves, samples=counted.samples))
        self._waiting, self._bytes = [], 0


@contextmanager
def _collecting(executor: OnnxruntimeExecutor, empty: CalibrationTable) -> Iterator[_Collected]:
    specs = {name: sketch.spec for name, sketch in empty.sketches.even.items()}
    with executor.collecting(specs) as collect:
        yield _Collected(collect, empty)
