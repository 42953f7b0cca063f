"""Streams: values whose channels can be scaled together without changing what the model computes.

    y = W x + b, z = f(y), u = V z        y' = y / s, z' = z / s and V' = V s give the same u

where f commutes with positive factors s, one per channel: Relu, LeakyRelu, PRelu, pooling, sums (Nagel et al., 2019,
section 4.1). A Clip from 0 to c (ReLU6) does so for all values up to c min(s, 1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from calibrant.graph.axes import CONVOLUTIONS, channel_axis
from calibrant.graph.clipping import ends_of_activation

PRODUCTS = ("Gemm", "MatMul")
ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu")
POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
COMMUTING = (*ACTIVATIONS, *POOLS, "Identity", "Dropout")
SUMS = ("Add", "Sub")


@dataclass(frozen=True)
class Stream:
    """values: names, in the order of the model. channels: of each of them.

    writers: nodes that make values of it from others, by weights: what they make can be divided.
    readers: nodes that read a value of it as their input 0, by weights: what they read can be multiplied.
    constants: (node, input) of what is added to it on the way. sums: whether values are added up in it.
    activations: whether activation functions lie in it; without them it is linear.
    inserted: nobody can divide it where it is made; a Mul before its readers does. It has no writers then.
    sketched: whether histograms are kept of each of its channels, so that any method can solve what is divided.
    ceilings: (value, number) of each that a Clip from 0 makes, which lets nothing through above that number.
    """

    values: tuple[str, ...]
    channels: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    constants: tuple[tuple[str, int], ...] = ()
    activations: bool = False
    sums: bool = False
    inserted: bool = False
    sketched: bool = True
    ceilings: tuple[tuple[str, float], ...] = ()


def find_streams(graph: ir.Graph) -> list[Stream]:
    """The streams of the main graph, in its order.

    A stream is whole: every value that is tied to it by a commuting operator or a sum can be scaled, each is made by a
    writer or a tie, and read by readers and ties alone. Inputs and outputs of the model are in none, nor what a
    subgraph reads. Weights that two nodes share are not touched.
    """
    tied = _Tied()
    for node in graph:
        values = _tied_by(node)
        for value in values[1:]:
            tied.join(values[0], value)
    members: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
        members[tied.root(value)].append(value)
    streams = (_stream(values) for values in members.values())
    return [stream for stream in streams if stream is not None]


def find_inserted(graph: ir.Graph, readers: Iterable[str], sketched: bool) -> list[Stream]:
    """Of every value that some of these nodes read by weights a stream, which a Mul before them divides.

    These are Gemms, MatMuls, and the Convs for which a Mul is little beside what they compute: they bring each number
    to several places of every channel. A Conv of one tap, or of single channels, costs little more than a Mul.
    """
    wanted = set(readers)
    made = (value for node in graph for value in node.outputs)
    taken = {value.name for value in (*made, *graph.inputs, *graph.initializers.values())}
    found = []
    for value in (v for node in graph for v in node.outputs if v.name):
        nodes = {use.node.name or "": use.node for use in value.uses() if reads_by_weights(use.node, use.idx)}
        names = tuple(name for name, node in nodes.items() if name in wanted and _outweighs_mul(node))
        axis = channel_axis(value)
        channels = _channels(value, axis) if axis is not None else None
        if names and channels is not None and smoothed_name(value.name or "") not in taken:
            found.append(Stream((value.name or "",), channels, (), names, inserted=True, sketched=sketched))
    return found


def smoothed_name(value: str) -> str:
    """What the output of an inserted Mul is called."""
    return f"{value}_smoothed"


def _outweighs_mul(node: ir.Node) -> bool:
    """Whether a Mul before the node costs next to nothing beside it."""
    if node.op_type in PRODUCTS:
        return True
    taps = node.inputs[1].const_value.shape[2:]  # type: ignore[union-attr]
    group: int = node.attributes.get_int("group", 1)
    return node.op_type == "Conv" and group == 1 and prod(taps) > 1


def reads_by_weights(node: ir.Node, index: int) -> bool:
    """Whether the node multiplies its input `index` by constant weights that it has for itself."""
    if index != 0 or node.domain or node.op_type not in CONVOLUTIONS + PRODUCTS or not _has_weights(node):
        return False
    value = node.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else 0
    return value is not None and _channels(value, 1 if node.op_type in CONVOLUTIONS else rank - 1) is not None


def _writes_by_weights(node: ir.Node) -> bool:
    value = node.outputs[0]
    if node.domain or value.shape is None:
        return False
    last = len(value.shape) - 1
    if node.op_type == "LayerNormalization":
        place: int = node.attributes.get_int("axis", -1)
        made = [v for v in node.outputs if v.name]
        at_end = place in (-1, last) and len(made) == 1
        return at_end and all(_own_constant(v, 1) for v in node.inputs[1:]) and _channels(value, last) is not None
    if node.op_type not in CONVOLUTIONS + PRODUCTS or not _has_weights(node):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    axis = 1 if node.op_type in CONVOLUTIONS else last
    return (bias is None or _own_constant(bias, 1)) and _channels(value, axis) is not None


def _has_weights(node: ir.Node) -> bool:
    if node.op_type == "Gemm":
        numbers = [node.attributes.get_float(key, 1.0) for key in ("alpha", "beta")]
        transposed: int = node.attributes.get_int("transA", 0)
        if numbers != [1.0, 1.0] or transposed:
            return False
    return len(node.inputs) > 1 and _own_constant(node.inputs[1], 2, 2 if node.op_type in PRODUCTS else 5)


def _own_constant(value: ir.Value | None, least: int, most: int | None = None) -> bool:
    """Whether it is a float constant of that rank (`least`, or from `least` to `most`) which nobody else reads."""
    if value is None or value.const_value is None or value.is_graph_output() or len(list(value.uses())) != 1:
        return False
    tensor = value.const_value
    return least <= len(tensor.shape) <= (most or least) and tensor.dtype == ir.DataType.FLOAT


def _channels(value: ir.Value, axis: int) -> int | None:
    """How many channels it has along that axis, if that is where statistics see them."""
    if value.dtype != ir.DataType.FLOAT or value.shape is None or channel_axis(value) != axis:
        return None
    channels = value.shape[axis]
    return channels if isinstance(channels, int) else None


def _tied_by(node: ir.Node) -> list[ir.Value]:
    """The values that have to be scaled alike because of this node; none where it is no tie."""
    if node.domain or (node.op_type not in (*COMMUTING, *SUMS, "Flatten") and _ceiling(node) is None):
        return []
    out = node.outputs[0]
    inputs = [v for v in node.inputs[: 2 if node.op_type in SUMS else 1] if v is not None and v.const_value is None]
    if not inputs or not all(_alike(value, out, node.op_type) for value in inputs):
        return []
    if node.op_type == "Flatten" and node.attributes.get_int("axis", 1) not in (1, 1 - len(inputs[0].shape or ())):
        return []
    constant = [v for v in node.inputs if v is not None and v.const_value is not None and node.op_type in SUMS]
    if constant and not (_own_constant(constant[0], 0, 6) and _is_per_channel(constant[0], out)):
        return []
    return [out, *inputs]


def _ceiling(node: ir.Node) -> float | None:
    """Above which number a Clip from 0 lets nothing through; None for all other nodes."""
    ends = ends_of_activation(node) if node.op_type == "Clip" else None
    return ends[1] if ends is not None and ends[0] == 0 < ends[1] < np.inf else None


def _alike(value: ir.Value, out: ir.Value, op_type: str) -> bool:
    """Whether channel c of the one is made of channel c of the other."""
    axes = channel_axis(value), channel_axis(out)
    if None in axes or value.shape is None or out.shape is None or value.dtype != ir.DataType.FLOAT:
        return False
    if value.shape[axes[0]] != out.shape[axes[1]]:  # type: ignore[index]
        return False
    if op_type == "Flatten":
        return axes == (1, 1) and len(out.shape) == 2
    same = len(value.shape) == len(out.shape) and axes[0] == axes[1]
    return same and (op_type not in POOLS or axes[0] == 1)


def _is_per_channel(constant: ir.Value, out: ir.Value) -> bool:
    """Whether the constant varies along the channels of `out` at most, and does not make it larger."""
    shape = constant.const_value.shape.numpy()  # type: ignore[union-attr]
    axis, rank = channel_axis(out), len(out.shape or ())
    place = (axis or 0) - (rank - len(shape))
    return len(shape) <= rank and all(size == 1 or index == place for index, size in enumerate(shape))


def _stream(values: list[ir.Value]) -> Stream | None:
    """The stream of values that are tied to each other; None where one of them cannot be scaled."""
    writers: dict[str, None] = {}
    readers: dict[str, None] = {}
    ties: dict[ir.Node, None] = {}
    graph = values[0].graph
    for value in values:
        node = value.producer()
        if node is None or value.is_graph_output() or value.dtype != ir.DataType.FLOAT:
            return None
        if value is node.outputs[0] and _tied_by(node):
            ties[node] = None
        elif value is node.outputs[0] and _writes_by_weights(node):
            writers[node.name or ""] = None
        else:
            return None
        for use in value.uses():
            if use.node.graph is not graph:
                return None
            if _tied_by(use.node) and (use.idx == 0 or use.node.op_type in SUMS):
                ties[use.node] = None
            elif reads_by_weights(use.node, use.idx):
                readers[use.node.name or ""] = None
            else:
                return None
    if not writers or not readers or not all(node.outputs[0] in values for node in ties):
        return None
    axis = channel_axis(values[0])
    channels = values[0].shape[axis] if values[0].shape is not None and axis is not None else None
    if not isinstance(channels, int):
        return None
    constants = tuple(
        (node.name or "", index)
        for node in ties
        for index, value in enumerate(node.inputs)
        if node.op_type in SUMS and value is not None and value.const_value is not None
    )
    names = tuple(value.name or "" for value in values)
    tops = ((node.outputs[0].name or "", _ceiling(node)) for node in ties)
    ceilings = tuple((name, top) for name, top in tops if top is not None)
    types = {node.op_type for node in ties}
    curved, summed = bool(ceilings) or not types.isdisjoint(ACTIVATIONS), not types.isdisjoint(SUMS)
    return Stream(names, channels, tuple(writers), tuple(readers), constants, curved, summed, ceilings=ceilings)


class _Tied:
    """Which values are tied to each other, however far apart (union-find)."""

    def __init__(self) -> None:
        self._above: dict[ir.Value, ir.Value] = {}

    def root(self, value: ir.Value) -> ir.Value:
        while value in self._above:
            value = self._above[value]
        return value

    def join(self, one: ir.Value, other: ir.Value) -> None:
        first, second = self.root(one), self.root(other)
        if first is not second:
            self._above[second] = first
