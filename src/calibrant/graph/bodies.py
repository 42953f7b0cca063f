"""Graphs inside nodes, and what they read from around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def body_graphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs that this node runs: branches of an If, bodies of a Loop or Scan."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node of the main graph reads: its inputs, and the values of that graph that graphs inside of it use."""
    yield from (value for value in node.inputs if value is not None)
    yield from read_from_outside(node)


def read_from_outside(node: ir.Node) -> list[ir.Value]:
    """What the graphs inside of a node read of the graphs around it."""
    found: dict[ir.Value, None] = {}
    for body in body_graphs(node):
        own = set(_own(body))
        found.update(dict.fromkeys(value for value in _read(body) if value not in own))
    return list(found)


def _own(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of the graph, and of those inside of it."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
        for body in body_graphs(node):
            yield from _own(body)


def _read(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from (value for value in node.inputs if value is not None)
        for body in body_graphs(node):
            yield from _read(body)
    yield from graph.outputs
