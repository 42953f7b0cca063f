"""Two models cut at the values that correspond: layer by layer, either can be computed by either model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.analysis.pairs.matching import Pair
from calibrant.analysis.pairs.view import View
from calibrant.analysis.submodel import open_submodel
from calibrant.core import ModelError
from calibrant.engines.session import reason
from calibrant.graph.bodies import reads

Arrays = dict[ir.Value, NDArray[Any]]
_MOVING = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Expand", "Identity"}
_MOVING |= {"DepthToSpace", "SpaceToDepth", "Gather"}
_MERGED = 4  # steps between an operator with weights and where its result is quantized, at most


@dataclass(eq=False)
class Part:
    """What one of the models does to make the values that stand for one of the other's.

    nodes: in an order in which they can run, none for an input of the model. reads: values from other parts, or inputs
    of the model. makes: the float values that stand for the result; primary: the one of them that is compared.
    """

    nodes: list[ir.Node]
    reads: list[ir.Value]
    makes: list[ir.Value]
    primary: ir.Value
    opsets: dict[str, int]
    _session: Any = None
    _lock: Lock = field(default_factory=Lock)

    def run(self, values: Arrays) -> Arrays:
        """What it makes of these values. Raises ModelError where onnxruntime cannot."""
        if not self.nodes:
            return {value: values[value] for value in self.makes}
        with self._lock:
            if self._session is None:
                self._session = open_submodel(
                    self.nodes, {value: values[value].dtype for value in self.reads}, self._computed, self.opsets
                )
        feed = {value.name: np.ascontiguousarray(values[value]) for value in self.reads}
        try:
            made = self._session.run([value.name for value in self._computed], feed)
        except Exception as error:  # onnxruntime's own types share no base but Exception
            raise ModelError(f"'{self.primary.name}' cannot be computed on its own: {reason(error)}") from error
        given = {value: values[value] for value in self.makes if value in self.reads}
        return given | dict(zip(self._computed, made, strict=True))

    @property
    def _computed(self) -> list[ir.Value]:
        return [value for value in self.makes if value not in self.reads]


@dataclass(eq=False)
class Layer:
    """A part of the first model and what the second one has in its place.

    node: the one of the first model that names it; None for an input.
    """

    pair: Pair
    first: Part
    second: Part
    node: ir.Node | None

    @property
    def name(self) -> str:
        """Of its node in the first model; of the value, for an input."""
        return (self.node.name if self.node is not None else self.pair.first.name) or ""

    @property
    def kind(self) -> str:
        """Its node's operator and those behind it, as `Conv+Clip`; `input` for an input of the model."""
        if self.node is None:
            return "input"
        place = self.first.nodes.index(self.node) if self.node in self.first.nodes else len(self.first.nodes)
        behind = [node.op_type for node in self.first.nodes[place + 1 :]]
        return "+".join([self.node.op_type, *behind[:2], *(["..."] if len(behind) > 2 else [])])


def cut(first: View, second: View, pairs: Sequence[Pair]) -> list[Layer]:
    """The layers, in the order of the first model.

    A layer ends where the second model quantizes, behind weights, and at outputs. What follows weights is part of their
    layer where its result is the first that is quantized: a Conv and its Relu are one layer. What only moves numbers
    ends none: to quantize them once more on the same scale changes nothing.
    """
    by_second = {pair.second: pair for pair in pairs}
    ending = [pair for pair in pairs if _ends_layer(pair, first, second, by_second)]
    ours = [first.forms(pair.first) for pair in ending]
    theirs = [second.forms(pair.second) for pair in ending]
    layers = []
    for pair, mine, other in zip(ending, ours, theirs, strict=True):
        one = _part(first, mine, {v for forms in ours for v in forms} - set(mine))
        two = _part(second, other, {v for forms in theirs for v in forms} - set(other))
        layers.append(Layer(pair, one, two, _naming_node(first, pair, one)))
    return layers


def _ends_layer(pair: Pair, first: View, second: View, by_second: dict[ir.Value, Pair]) -> bool:
    if not first.forms(pair.first) or not second.forms(pair.second):
        return False
    if first.is_output(pair.first):
        return True
    if second.is_quantized(pair.second):
        return pair.node is None or pair.node.op_type not in _MOVING or first.weighs(pair.node)
    if pair.node is None or not first.weighs(pair.node):
        return False
    value: ir.Value = pair.second
    for _ in range(_MERGED):
        reader = second.only_reader(value)
        if reader is None or second.weighs(reader) or not reader.outputs:
            return True
        value = reader.outputs[0]
        if second.is_quantized(value) and value in by_second:
            return False
    return True


def _part(view: View, forms: list[ir.Value], others: set[ir.Value]) -> Part:
    nodes: set[ir.Node] = set()
    read: dict[ir.Value, None] = {}
    waiting = list(forms)
    seen = set(waiting)
    while waiting:
        value = waiting.pop()
        producer = value.producer()
        if value in others or (producer is None and value not in view.constants):
            read[value] = None
        elif producer is not None:
            nodes.add(producer)
            fresh = [v for v in reads(producer) if v not in seen]
            seen.update(fresh)
            waiting += fresh
    ordered = sorted(nodes, key=view.position.__getitem__)
    return Part(ordered, list(read), forms, _primary(forms), view.opsets)


def _primary(forms: Sequence[ir.Value]) -> ir.Value:
    """What most of the model reads: an output of the model, else the dequantized value, else the value itself."""
    outputs = [value for value in forms if value.is_graph_output()]
    return (outputs or [*forms[1:], forms[0]])[0]


def _naming_node(first: View, pair: Pair, part: Part) -> ir.Node | None:
    weighing = [node for node in part.nodes if node in first.position and first.weighs(node)]
    return weighing[-1] if weighing and pair.node is not None else pair.node
