"""The float model in pieces: a changed value is carried to the outputs, and what it does not touch is not run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.analysis.operations import Operation
from calibrant.analysis.submodel import open_submodel
from calibrant.graph import Graph
from calibrant.graph.bodies import reads

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Changed:
    """A value that is not what it is in the float model. made: what float readers take; read: what integer ones do.

    readers: names of the operations that count as integer ones, if not all of them do; the model's outputs are `made`
        then.
    """

    made: NDArray[Any]
    read: NDArray[Any]
    readers: frozenset[str] | None = None


class Piece:
    """Some nodes as a model of their own.

    inputs, outputs: names of what they read, and of what others need of them. floats: inputs that all of them read in
    float, although others read them quantized.
    """

    def __init__(self, graph: Graph, nodes: Iterable[ir.Node]) -> None:
        self.nodes = list(nodes)
        made = {value: None for node in self.nodes for value in node.outputs if value.name}
        read = {value: None for node in self.nodes for value in reads(node) if value not in made}
        inputs = {value: None for value in read if value.const_value is None}
        outputs = [
            value for value in made if value.is_graph_output() or any(u.node not in self.nodes for u in value.uses())
        ]
        self.inputs = [value.name or "" for value in inputs]
        self.outputs = [value.name or "" for value in outputs]
        self.floats = {value.name or "" for value in inputs if self._in_float(graph, value)}
        self._session = open_submodel(self.nodes, inputs, outputs, graph.model.opset_imports) if outputs else None

    def run(self, feed: Values) -> dict[str, NDArray[Any]]:
        """Its outputs."""
        if self._session is None:
            return {}
        return dict(zip(self.outputs, self._session.run(self.outputs, {n: feed[n] for n in self.inputs}), strict=True))

    def takes(self, name: str, changed: Changed) -> NDArray[Any]:
        """As what it reads a value that is changed."""
        others = changed.readers is not None and self.nodes[0].name not in changed.readers
        return changed.made if others or name in self.floats else changed.read

    def _in_float(self, graph: Graph, value: ir.Value) -> bool:
        read = [graph.config_read(use.node, use.idx) for use in value.uses() if use.node in self.nodes]
        return not any(read or [graph.config_of(value.name or "")])  # none of them: a graph inside of one reads it


class Pieces:
    """The float model of a quantized graph, cut before and after each of its operations.

    Holds every weight once. boundaries: names of the values between the pieces, which whoever carries a change has to
    know of the float model, outputs and inputs among them.
    """

    def __init__(self, graph: Graph, operations: Iterable[Operation]) -> None:
        self._graph = graph
        self._pieces = [Piece(graph, nodes) for nodes in _cut(graph, operations)]
        self.outputs = graph.output_names
        between = [name for piece in self._pieces for name in (*piece.inputs, *piece.outputs)]
        self.boundaries = list(dict.fromkeys([*between, *self.outputs]))

    def carry(self, changed: Mapping[str, Changed], seen: Values) -> list[NDArray[Any]]:
        """The model's outputs where these values, none of which follows from another, are not what they were.

        seen: the `boundaries` of the float model, for one sample.
        """
        other: dict[str, NDArray[Any]] = {}
        for piece in self._pieces:
            own = {n: piece.takes(n, one) for n, one in changed.items() if n in piece.inputs}
            if own or not other.keys().isdisjoint(piece.inputs):
                known = {**seen, **other, **own}
                other |= piece.run(known)
        for name, one in changed.items():
            rounded = one.readers is None and self._graph.config_of(name) is not None
            other[name] = one.read if rounded else one.made
        return [other.get(output, seen[output]) for output in self.outputs]


def _cut(graph: Graph, operations: Iterable[Operation]) -> list[list[ir.Node]]:
    """The nodes of the main graph: each operation, and what lies between two of them."""
    heads = {operation.nodes[0]: operation.nodes for operation in operations}
    fused = {node for nodes in heads.values() for node in nodes[1:]}
    cut: list[list[ir.Node]] = [[]]
    for node in graph.model.graph:
        if node in heads:
            cut += [list(heads[node]), []]
        elif node not in fused:
            cut[-1].append(node)
    return [nodes for nodes in cut if nodes]
