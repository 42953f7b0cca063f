"""From sketches, and a graph if there is one, to a Report."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from calibrant import __version__
from calibrant.analysis.by_operation import Analysis, loss
from calibrant.analysis.findings import Grid, chosen, decibels_of, found_of, whole
from calibrant.analysis.measures import sqnr_db
from calibrant.analysis.report.advice import suspects
from calibrant.analysis.report.in_use import value_in_use, weights_in_use
from calibrant.analysis.report.model import Report, ReportedOperation, ReportedValue
from calibrant.analysis.report.outline import BYTES, Outline
from calibrant.core import (
    ObservationError,
    QuantizationProperty,
    QuantizationStates,
    TensorQuantizationConfig,
    fake_quantize,
)
from calibrant.core.policy import SOLVED
from calibrant.graph import Graph
from calibrant.graph.graph import original
from calibrant.observers import Distribution, squared_error
from calibrant.passes.activations import activation_configs
from calibrant.passes.base import parameter_of
from calibrant.passes.calibration import merged
from calibrant.sketches import Extremes, Halves, TensorSketch

UNMOVED = 100.0  # dB: float32 itself is hardly more exact
ALL_BYTES = 2_400_000  # of the outlines of all values: with the rest, and the plotting library, less than 5 MB


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    sketches: of the values, with both halves of the samples. graph: quantized, of the same model; None: the values
    alone are reported, on `grid`, with `method` as the one that would be chosen.
    methods: to show the ranges of, where they serve a value. facts: label and text for the summary.
    analysis: what was measured of the graph on samples, `at_outputs` too.
    """

    title: str
    sketches: Halves
    methods: Sequence[str]
    facts: Sequence[tuple[str, str]] = ()
    graph: Graph | None = None
    grid: Grid = field(default_factory=Grid)
    method: str = "mse"
    analysis: Analysis | None = None


def collect(subject: Subject, threads: int = 1) -> Report:
    """The report. Values are solved by every method, several at a time.

    Raises nothing for a value that a method cannot serve: its finding says why.
    """
    graph = subject.graph
    order = values_in_order(graph, subject.sketches) if graph is not None else sorted(subject.sketches)
    room = min(BYTES, ALL_BYTES // max(len(order), 1))
    uses = uses_of(graph) if graph is not None else {}
    makers = dict(makers_of(graph)) if graph is not None else {}

    def reported(name: str) -> ReportedValue:
        use = uses.get(name) or Use(subject.grid.config, [name])
        value = reported_value(subject, name, use, room)
        return replace(value, maker=makers.get(name, ""))

    with ThreadPoolExecutor(threads, thread_name_prefix="calibrant-report") as pool:
        values = list(pool.map(reported, order))
    operations = reported_operations(graph, values, subject.analysis) if graph is not None else []
    notes = list(graph.report) if graph is not None else []
    facts = list(subject.facts)
    if subject.analysis is not None:
        measured = subject.analysis
        facts.append(("measured", f"{measured.sqnr_db:.1f} dB at the outputs, on {measured.samples} samples"))
    facts.append(("made by", f"Calibrant {__version__}"))
    return Report(subject.title, facts, values, operations, suspects(operations, values), notes)


@dataclass(frozen=True)
class Use:
    """The config of a value, and the values whose merged sketch solves it."""

    config: TensorQuantizationConfig
    roots: Sequence[str]


def uses_of(graph: Graph) -> dict[str, Use]:
    """By the name of each value that has a config: its first use. For a float output, the one that it might get."""
    uses: dict[str, Use] = {}
    for config, roots in activation_configs(graph):
        for root in roots:
            uses.setdefault(root, Use(config, roots))
    for group in graph.float_outputs:
        uses |= {root: Use(group.config, group.roots) for root in group.roots if root not in uses}
    return uses


def reported_value(subject: Subject, name: str, use: Use, room: int) -> ReportedValue:
    """What is told of one value."""
    sketch = whole(subject.sketches[name])
    known = [root for root in use.roots if root in subject.sketches]
    own, shared = (_halves(subject.sketches, name, roots) for roots in ([name], known))
    solved = use.config.state in SOLVED
    moving = (subject.method,) if subject.graph is None else ()
    finding = found_of(name, own, subject.methods, moving, _per_tensor(use.config), shared)
    seen = sketch.extremes.per_tensor()
    outline = None
    if sketch.histogram is not None and seen.finite:
        outline = Outline.of(Distribution.of(sketch.histogram, seen), room)
    method = subject.method if subject.graph is None else ""
    choice = finding.choices.get(method)
    moved = choice.move if choice is not None else None
    sqnr = choice.sqnr if choice is not None else None
    if solved:
        method = use.config.observer_algorithm
        moved, sqnr = use.config.detail.get("moved"), estimate(use.config, subject.sketches[name])
        choice = None if use.config.is_per_channel else chosen(use.config, sketch, moved)
    return ReportedValue(
        finding,
        use.config,
        choice,
        method,
        sqnr,
        moved=moved,
        outline=outline,
        extremes=subject.sketches[name].extremes,
        shared=[root for root in use.roots if root != name],
    )


def estimate(config: TensorQuantizationConfig, sketch: TensorSketch) -> float | None:
    """SQNR in dB of a solved config on what the sketch has seen; None where it has no histogram for it."""
    try:
        error, power = squared_error(config, sketch if config.is_per_channel else whole(sketch))
    except ObservationError:
        return None
    return decibels_of(error, power)


def _halves(sketches: Halves, name: str, roots: Sequence[str]) -> Halves:
    """The halves of all that is on one scale with the value, under its name."""
    if roots == [name] or not roots:
        return Halves({name: whole(sketches.even[name])}, {name: whole(sketches.odd[name])})
    even, odd = (merged([whole(half[root]) for root in roots], False) for half in (sketches.even, sketches.odd))
    return Halves({name: even}, {name: odd})


def _per_tensor(config: TensorQuantizationConfig) -> TensorQuantizationConfig:
    """A config of that grid for the whole tensor, that takes NaN and Inf by the finite elements, not solved."""
    policy = config.policy.properties & ~QuantizationProperty.PER_CHANNEL | QuantizationProperty.PER_TENSOR
    return config.clone(
        policy=policy,
        channel_axis=None,
        scale=None,
        offset=None,
        state=QuantizationStates.INITIAL,
        detail=config.detail | {"ignore_nonfinite": True},
    )


def values_in_order(graph: Graph, sketches: Mapping[str, object]) -> list[str]:
    """The observed values in the order in which the model makes them; those that it does not know at the end."""
    made = [value.name or "" for value in graph.values()]
    order = [name for name in dict.fromkeys(made) if name in sketches]
    return order + sorted(set(sketches) - set(order))


def makers_of(graph: Graph) -> Iterator[tuple[str, str]]:
    """Each value that an operation makes, and the operation's name; of an activation within it the same."""
    within = {name: operation for operation, fused in graph.operations.items() for name in fused}
    for node in graph.model.graph:
        name = node.name or ""
        yield from ((value.name or "", within.get(name, name)) for value in node.outputs)


# The graph as a list


def reported_operations(
    graph: Graph, values: Sequence[ReportedValue], analysis: Analysis | None
) -> list[ReportedOperation]:
    """The operations that compute with numbers, in the order in which they run.

    An activation fused into the operation before it is told with that one; what computes shapes is left out. Outputs
    that no operation alone moves, as those of a Softmax that is sure of itself, do not tell them apart: `alone` is
    left out.
    """
    by_name = {value.name: value for value in values}
    home = {name: root for group in graph.groups for name in group.values for root in group.roots[:1]}
    home |= {name: name for name in by_name}
    extremes = {name: by_name[root].extremes for name, root in home.items() if root in by_name}
    measured = {error.name: error for error in analysis.operations} if analysis is not None else {}
    tells = any(decibels_of(loss(error), 1.0) < UNMOVED for error in measured.values())
    inside = {name for fused in graph.operations.values() for name in fused}
    made: set[str] = set()  # by quantized operations so far
    found = []
    for node in graph.model.graph:
        if node.name in inside:
            continue
        operation = _reported_operation(graph, node, home, made, by_name, extremes)
        if operation is None:
            continue
        if error := measured.get(operation.name):
            broken = np.isnan(error.accumulated.sqnr_db)
            accumulated = -math.inf if broken else error.accumulated.sqnr_db
            alone = decibels_of(loss(error), 1.0) if tells else None
            operation = replace(operation, alone=alone, accumulated=accumulated)
        made |= {operation.value} if not operation.reason else set()
        found.append(operation)
    return found


def _reported_operation(
    graph: Graph,
    node: ir.Node,
    home: Mapping[str, str],
    made: Collection[str],
    values: Mapping[str, ReportedValue],
    extremes: Mapping[str, Extremes],
) -> ReportedOperation | None:
    """One operation; None where it has nothing to do with quantization. home: the observed value of each value.

    extremes: of each of these values, those of the observed one.
    """
    name = node.name or ""
    reason = graph.left_in_float.get(name, "")
    fused = graph.operations.get(name, [])
    output = (graph.node(fused[-1]) if fused else node).outputs[0].name or ""
    reads = list(dict.fromkeys(home[v.name or ""] for v in node.inputs if v is not None and v.name in home))
    entering = [] if reason else [read for read in reads if read not in made and _sqnr(values.get(read)) is not None]
    weights, method = weight_error(graph, node)
    value = home.get(output, "")
    rounding = None if reason else _sqnr(values.get(value))
    if not (reason or value or reads or weights is not None):
        return None
    return ReportedOperation(
        name,
        node.op_type,
        value,
        reads,
        entering,
        reason,
        ", ".join(fused),
        rounding,
        min((values[read].sqnr or 0.0 for read in entering), default=None),
        weights,
        method,
        None if rounding is None else value_in_use(graph, output, rounding, extremes),
        weights_in_use(graph, node, extremes),
    )


def _sqnr(value: ReportedValue | None) -> float | None:
    return value.sqnr if value is not None else None


def weight_error(graph: Graph, node: ir.Node) -> tuple[float | None, str]:
    """SQNR in dB of the node's quantized weights beside the model's own, and how their scale was found.

    None where it has none.
    """
    exact, rounded, method = [], [], ""
    for index in range(len(node.inputs)):
        config = graph.edges.get((node.name or "", index))
        if config is None or config.state not in SOLVED or config.is_bias:
            continue
        values, value = parameter_of(node, index), node.inputs[index]
        floats = None if value is None else original(value)
        if values is None or floats is None:
            continue
        exact.append(np.asarray(floats.numpy()))
        rounded.append(fake_quantize(values, config))
        method = method or config.observer_algorithm
    return (sqnr_db(exact, rounded), method) if exact else (None, "")
