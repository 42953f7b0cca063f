"""The plan: which operators run on integers, and which values share a scale. No numbers, no configs yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from calibrant.graph import Graph
from calibrant.graph.axes import channel_axis
from calibrant.graph.bodies import body_graphs
from calibrant.graph.roles import SHAPE, not_numbers
from calibrant.quantizers.choice import NOT_NAMED
from calibrant.quantizers.fusion import fused_behind
from calibrant.quantizers.rows import Kind, Role, Row, Table
from calibrant.quantizers.spectra import SQUARED, is_squared

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)  # what QuantizeLinear takes and onnxruntime's kernels compute with
KEEPS_CHANNELS = {"MaxPool", "GlobalMaxPool", "Identity", "Dropout", "Resize", "Pad", "Clip"}


@dataclass(eq=False)
class Scale:
    """Values on one scale; `roots` are those that determine it."""

    values: list[ir.Value]
    roots: list[ir.Value]


@dataclass
class Plan:
    """rows: operators that run on integers. inside: activations that run within one of them; fused: behind which one.

    home: values quantized where they are made. read: float values, quantized for the integer operators that read them.
    reasons: operators left in float -> why.
    """

    rows: dict[ir.Node, Row] = field(default_factory=dict)
    inside: set[ir.Node] = field(default_factory=set)
    fused: dict[ir.Node, list[ir.Node]] = field(default_factory=dict)
    home: dict[ir.Value, Scale] = field(default_factory=dict)
    read: dict[ir.Value, Scale] = field(default_factory=dict)
    reasons: dict[ir.Node, str] = field(default_factory=dict)

    @property
    def scales(self) -> list[Scale]:
        """Every scale once."""
        return list(dict.fromkeys([*self.read.values(), *self.home.values()]))

    def reads_integers(self, node: ir.Node, index: int) -> bool:
        """Whether that input is one that the node takes as integers, or as a dequantized activation."""
        row = self.rows.get(node)
        return row is not None and row.role(index) in (Role.DATA, Role.WEIGHT)


def make_plan(graph: Graph, table: Table, kept: Mapping[str, str], options: Options) -> Plan:
    """Walk the nodes in order and decide each from what its inputs have become.

    kept: nodes that the user wants in float -> why.
    """
    walk = _Walk(graph, table, kept, options)
    for node in graph.model.graph:
        if node not in walk.plan.inside:
            walk.visit(node)
    return walk.plan


@dataclass(frozen=True)
class Options:
    """What of the setting bears on the plan. activations: quantize them; symmetric: on grids without a zero point."""

    activations: bool = True
    fusion: bool = True
    symmetric: bool = False
    per_channel: bool = False


class _Walk:
    def __init__(self, graph: Graph, table: Table, kept: Mapping[str, str], options: Options) -> None:
        self.plan = Plan()
        self._table = table
        self._kept = kept
        self._options = options
        self._not_numbers = not_numbers(graph.model.graph)

    def visit(self, node: ir.Node) -> None:
        row = self._table.rows.get(node.op_type) if not node.domain else None
        reason = self._refusal(node, row)
        if row is None or reason is not None:
            made = [v for v in node.outputs if v.name and self._not_numbers.get(v) != SHAPE]
            if any(v.dtype is None or v.dtype.is_floating_point() for v in made) or body_graphs(node):
                self.plan.reasons[node] = reason or ""
            return
        self.plan.rows[node] = row
        if not self._options.activations:
            return
        if row.kind is Kind.COMPUTE:
            self._compute(node, row)
        else:
            self._follow(node, row)

    # Why not

    def _refusal(self, node: ir.Node, row: Row | None) -> str | None:
        """Why the node stays in float; None when it runs on integers."""
        if body_graphs(node):
            return "what is inside it is left in float"
        wish = self._kept.get(node.name or "")
        if wish is not None and (row is not None or wish != NOT_NAMED):
            return wish
        if row is None:
            where = "" if not node.domain else f" of domain {node.domain}"
            default = f"{self._table.platform.name} has no integer form of {node.op_type}{where}"
            return self._table.float_because.get(node.op_type, default) if not node.domain else default
        return self._compute_refusal(node, row) if row.kind is Kind.COMPUTE else self._follow_refusal(node, row)

    def _compute_refusal(self, node: ir.Node, row: Row) -> str | None:
        operands = [v for i, v in enumerate(node.inputs) if v is not None and row.role(i) in (Role.DATA, Role.WEIGHT)]
        activations = [v for v in operands if v.const_value is None]
        if not self._options.activations and len(activations) == len(operands):
            return "it has no weights, and weights alone are quantized"
        if not activations:
            return "it has constants alone as inputs"
        for value in operands:
            if value.dtype is not None and value.dtype not in FLOATS:
                return f"it computes in {value.dtype.name.lower()}, not in float32 or float16"
            if value in self._not_numbers:
                return f"one of its inputs {self._not_numbers[value]}"
        if is_squared(node.outputs[0], self._table):
            return SQUARED
        biases = [v for i, v in enumerate(node.inputs) if v is not None and row.role(i) is Role.BIAS]
        return "its bias is no constant of the model" if any(v.const_value is None for v in biases) else None

    def _follow_refusal(self, node: ir.Node, row: Row) -> str | None:
        if not self._options.activations:
            return "weights alone are quantized"
        for value in _data(node, row):
            if value in self.plan.home:
                continue
            if row.kind is Kind.PASS:
                return "moves constants" if value.const_value is not None else "moves float values"
            return f"one of its inputs is {'a constant' if value.const_value is not None else 'float'}"
        return None

    # What then

    def _compute(self, node: ir.Node, row: Row) -> None:
        for index, value in enumerate(node.inputs):
            activation = row.role(index) in (Role.DATA, Role.WEIGHT) and value is not None and value.const_value is None
            if activation and value is not None and value not in self.plan.home and value not in self.plan.read:
                self.plan.read[value] = Scale([value], [value])
        if row.output:
            self._own(node, row)

    def _follow(self, node: ir.Node, row: Row) -> None:
        data = _data(node, row)
        if row.kind is Kind.JOIN or not self._can_share(node, row, data):
            self._own(node, row)
            return
        scale = self.plan.home[data[0]]
        for other in data[1:]:
            scale = self._merge(scale, self.plan.home[other])
        if row.kind is Kind.LEVEL:
            self._own(node, row)
            return
        for output in node.outputs:
            if output.name and output.dtype in (None, *FLOATS) and output not in self._not_numbers:
                scale.values.append(output)
                self.plan.home[output] = scale

    def _own(self, node: ir.Node, row: Row) -> None:
        """A scale for what the node, with the activation behind it, makes."""
        made = node.outputs[0]
        fused = self._fused(made, row)
        self.plan.inside.update(fused)
        self.plan.fused[node] = fused
        tail = fused[-1].outputs[0] if fused else made
        if tail not in self._not_numbers:
            self.plan.home[tail] = Scale([tail], [tail])
        for other in node.outputs[1:]:  # a JOIN has one output; a PASS on scales of its own may have more
            if other.name and other.dtype in FLOATS and row.kind is Kind.PASS:
                self.plan.home[other] = Scale([other], [other])

    def _fused(self, made: ir.Value, row: Row) -> list[ir.Node]:
        if not self._options.fusion or not row.fuses:
            return []
        fused = fused_behind(made, row.fuses)
        if any(self._kept.get(n.name or "", NOT_NAMED) != NOT_NAMED for n in fused):
            return []
        if self._table.fuses_by_grid and any(not self._implied_by_grid(n) for n in fused):
            return []
        return fused

    def _implied_by_grid(self, node: ir.Node) -> bool:
        """Whether integers from the zero point up, saturating at the top, are this activation."""
        if self._options.symmetric:
            return False
        if node.op_type == "Clip":
            low = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
            return low is not None and float(low.numpy().reshape(-1)[0]) == 0
        return node.op_type == "Relu"

    def _can_share(self, node: ir.Node, row: Row, data: list[ir.Value]) -> bool:
        """Whether one config can serve the inputs (and the output) of this node."""
        for index, value in enumerate(node.inputs):
            if row.role(index) is Role.CONSTANT and value is not None and node.op_type == "Pad":
                filling = value.const_value
                if filling is None or np_any(filling):  # may lie outside of what the data's scale covers
                    return False
        if not self._options.per_channel:
            return True
        values = data if row.kind is Kind.LEVEL else [*data, *(v for v in node.outputs if v.dtype in FLOATS)]
        if row.kind is Kind.PASS and node.op_type not in KEEPS_CHANNELS:
            return False
        return len({(axis := channel_axis(v), v.shape and axis is not None and v.shape[axis]) for v in values}) == 1

    def _merge(self, one: Scale, other: Scale) -> Scale:
        if one is not other:
            one.values += other.values
            one.roots += other.roots
            self.plan.home.update(dict.fromkeys(other.values, one))
        return one


def _data(node: ir.Node, row: Row) -> list[ir.Value]:
    return [v for i, v in enumerate(node.inputs) if v is not None and row.role(i) is Role.DATA]


def np_any(tensor: ir.TensorProtocol) -> bool:
    """Whether the tensor has a number other than 0."""
    return bool(tensor.numpy().any())


def keep_what_is_read(plan: Plan) -> None:
    """For platforms that quantize an output only where an integer operator reads it: drop every other scale."""
    needed: set[ir.Value] = set()
    for node, row in plan.rows.items():
        if row.kind not in (Kind.PASS, Kind.ALIGN) and not row.one_input:
            for value in _data(node, row) + _activations(node, row):
                _need(plan, value, needed)
    for node, row in plan.rows.items():
        if row.one_input:
            _need(plan, _residual(plan, _data(node, row), needed), needed)
    for node in [n for n, row in plan.rows.items() if row.kind in (Kind.PASS, Kind.ALIGN)]:
        if not any(v in needed for v in node.outputs):
            del plan.rows[node]
            plan.reasons[node] = "its output is read in float alone"
    for value in [v for v in plan.home if v not in needed]:
        scale = plan.home.pop(value)
        scale.values.remove(value)
        if value in scale.roots:
            scale.roots.remove(value)


def _activations(node: ir.Node, row: Row) -> list[ir.Value]:
    return [v for i, v in enumerate(node.inputs) if v is not None and row.role(i) is Role.WEIGHT]


def _need(plan: Plan, value: ir.Value, needed: set[ir.Value]) -> None:
    """Mark the value, and what it takes its scale from."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if value in needed or value not in plan.home:
            continue
        needed.add(value)
        producer = value.producer()
        row = plan.rows.get(producer) if producer is not None else None
        if producer is not None and row is not None and row.kind in (Kind.PASS, Kind.ALIGN):
            waiting += _data(producer, row)


def _residual(plan: Plan, data: list[ir.Value], needed: set[ir.Value]) -> ir.Value:
    """The input that comes around the computing branch: one that no COMPUTE makes, else one quantized anyway."""

    def computed(value: ir.Value) -> bool:
        producer = value.producer()
        row = plan.rows.get(producer) if producer is not None else None
        return row is not None and row.kind is Kind.COMPUTE

    around = [v for v in data if not computed(v)] or [v for v in data if v in needed] or data
    return around[0]
