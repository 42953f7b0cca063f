"""Names that nothing in a model has yet."""

from __future__ import annotations

import onnx_ir as ir


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
