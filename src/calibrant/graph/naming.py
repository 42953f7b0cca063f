"""Names for nodes that have none, or one that another node has too; names that nothing in a model has yet."""

from __future__ import annotations

import onnx_ir as ir


def name_nodes(model: ir.Model) -> int:
    """Give every node of every graph a name of its own; returns how many were named.

    A name that the model gives stays with the first node that bears it. Others become `Conv_3`: the operator and the
    first number that is free, in the order of the nodes, so the same model always gets the same names.
    """
    nodes = [node for graph in model.graphs() for node in graph]
    taken = {node.name for node in nodes if node.name}
    counters: dict[str, int] = {}
    seen: set[str] = set()
    named = 0
    for node in nodes:
        if not node.name or node.name in seen:
            node.name = _free_name(node.name or node.op_type, taken, counters)
            named += 1
        seen.add(node.name)
        taken.add(node.name)
    return named


def _free_name(base: str, taken: set[str], counters: dict[str, int]) -> str:
    number = counters.get(base, 0)
    while f"{base}_{number}" in taken:
        number += 1
    counters[base] = number + 1
    return f"{base}_{number}"


class Names:
    """Gives out names that no value and no node of the model, subgraphs included, has."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str | None] = set()
        for graph in model.graphs():
            self._taken.update(value.name for value in graph.inputs)
            if isinstance(graph, ir.Graph):
                self._taken.update(graph.initializers)
            for node in graph:
                self._taken.add(node.name)
                self._taken.update(value.name for value in node.outputs)

    def fresh(self, wish: str) -> str:
        """`wish`, or `wish_1`, `wish_2`, ... if that is taken."""
        name, count = wish, 0
        while name in self._taken:
            count += 1
            name = f"{wish}_{count}"
        self._taken.add(name)
        return name
