"""Graphs inside nodes."""

from __future__ import annotations

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
