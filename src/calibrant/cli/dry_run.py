"""`--dry-run`: what would be quantized, how, for whom, and what would stay in float."""

from __future__ import annotations

import onnx_ir as ir
from rich.table import Table
from rich.text import Text

from calibrant.cli.console import Console
from calibrant.cli.summary import float_rows, values_in_words
from calibrant.cli.words import Parameters, config_in_words
from calibrant.core import QuantizationStates, TargetPlatform, TensorQuantizationConfig
from calibrant.graph import Graph


def show_plan(console: Console, graph: Graph, platform: TargetPlatform) -> None:
    """Print it on stdout: a row for each quantized value, then the weights, then what stays in float."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("VALUE", "MADE BY", "CONFIG", "METHOD", "READ BY"):
        table.add_column(heading, overflow="fold")
    rows = plan_rows(graph)
    for row in rows:
        table.add_row(*map(Text, row))
    if rows:
        console.out.print(table)
        console.out.print()
    lines = [("activations", values_in_words(graph) + " to be calibrated"), ("weights", str(Parameters.of(graph)))]
    for label, text in [*lines, *float_rows(graph, verbose=True), *(("note", note) for note in graph.report)]:
        console.out.print(Text.assemble((f"{label:<13}", "bold"), text), soft_wrap=True)
    console.out.print(Text(f"A dry run for {platform.name}: no samples were read, nothing was written."))


def plan_rows(graph: Graph) -> list[tuple[str, str, str, str, str]]:
    """Value, its producer, config, method and readers; values on one scale stand together."""
    rows = []
    for number, group in enumerate(graph.groups, 1):
        shared = f", shared scale {number}" if len(group.values) > 1 else ""
        for name in group.values:
            rows.append(_row(graph, name, group.config, shared))
    own: dict[int, tuple[str, TensorQuantizationConfig, list[str]]] = {}
    for (node, index), config in graph.edges.items():
        name = graph.input_of(node, index)
        if config.state is not QuantizationStates.FP32 and not graph.is_parameter(name):
            own.setdefault(id(config), (name, config, []))[2].append(_spell(graph.node(node)))
    for name, config, readers in own.values():
        words = config_in_words(config)
        rows.append((name, _maker(graph, name), words, config.observer_algorithm, ", ".join(readers) + " alone"))
    return rows


def _row(graph: Graph, name: str, config: TensorQuantizationConfig, shared: str) -> tuple[str, str, str, str, str]:
    readers = []
    for use in graph.value(name).uses():
        edge = graph.edges.get((use.node.name or "", use.idx))
        if edge is None:
            readers.append(_spell(use.node))
        elif edge.state is QuantizationStates.FP32:
            readers.append(f"{_spell(use.node)} in float")
    if graph.value(name).is_graph_output():
        readers.append("the output")
    return name, _maker(graph, name), config_in_words(config) + shared, config.observer_algorithm, ", ".join(readers)


def _maker(graph: Graph, name: str) -> str:
    producer = graph.value(name).producer()
    return "the input" if producer is None else producer.op_type


def _spell(node: ir.Node) -> str:
    """Its name, with what it does; it may stand in the body of an If or a Loop."""
    name, kind = node.name or "", node.op_type
    return name if kind.casefold() in name.casefold() else f"{kind} {name}"
