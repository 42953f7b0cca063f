"""A graph in blocks of some layers each, for passes that look no further than to the end of one."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.graph import Graph


def in_blocks(graph: Graph, size: int, layers: Container[ir.Node]) -> list[list[ir.Node]]:
    """All nodes, in their order, `size` of the layers to a block; each ends before the first layer of the next.

    size: 1 or more. What comes before the first layer is of its block; without any layer there is one block.
    """
    blocks: list[list[ir.Node]] = [[]]
    count = 0
    for node in graph.model.graph:
        if node in layers:
            if count == size:
                blocks.append([])
                count = 0
            count += 1
        blocks[-1].append(node)
    return blocks


def made_by(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """The floating values that these nodes make, in order."""
    return [v for n in nodes for v in n.outputs if v.name and v.dtype is not None and v.dtype.is_floating_point()]


def ends_of(nodes: Sequence[ir.Node]) -> list[str]:
    """Of the floating values that these nodes make, those that other nodes read or that the model gives, by name."""
    inside = set(nodes)
    read = [v for v in made_by(nodes) if v.is_graph_output() or any(use.node not in inside for use in v.uses())]
    return [v.name or "" for v in read]
