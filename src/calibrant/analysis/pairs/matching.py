"""Which nodes and values of two models correspond, whatever tool made one from the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from calibrant.analysis.pairs.view import View

# What tools put behind a name when they quantize: onnxruntime, NNCF, Quark, TensorRT's toolkits, and Calibrant itself.
_SUFFIX = re.compile(
    r"(_QuantizeLinear(_Input|_Output)?|_DequantizeLinear(_Output)?|_quantized|_dequantized|_requantized|_quant|_float"
    r"|_q|_dq|_qdq)+(_\d+)?$",
    re.IGNORECASE,
)
# A step that may be part of the operator before it in the other model: fused, folded into weights, or into the range
_ABSORBED = {"Relu", "Clip", "Min", "Max", "BatchNormalization", "Add", "Sub", "Mul", "Div"}
_ABSORBED |= {"Identity", "Dropout", "Cast"}
_ONE_TYPE = {"FusedConv": "Conv", "ConvInteger": "Conv", "FusedGemm": "Gemm", "Gemm": "MatMul"}
_ONE_TYPE |= {"FusedMatMul": "MatMul", "FusedGemm": "MatMul", "MatMulInteger": "MatMul", "MatMulNBits": "MatMul"}
_ONE_TYPE |= {"MatMulIntegerToFloat": "MatMul", "DynamicQuantizeMatMul": "MatMul"}
_INTEGER_STEPS = {"Add", "Mul", "Cast"}  # behind a ConvInteger or MatMulInteger, before its result is a float
_FARTHEST = 4  # steps that are looked back, or absorbed, at most


@dataclass(frozen=True)
class Pair:
    """A value of the first model and what stands for it in the second: both as they are before any quantization.

    node: the node of the first model to which it belongs; None for an input of the model.
    """

    first: ir.Value
    second: ir.Value
    node: ir.Node | None


def match(first: View, second: View, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> list[Pair]:
    """The pairs, in the order of the first model, each value at most once on either side.

    Nodes of one operator are matched by the names of what they make, without what tools append to them; then by their
    own names; the others by structure: those that alone of their operator read the same value. A Relu that the second
    model has not is part of what is before it, and so is a folded BatchNormalization, or a bias that is added.

    inputs, outputs: names in the first model -> names in the second, which are sure to correspond.
    """
    matcher = _Matcher(first, second)
    matcher.link_ends(inputs, outputs)
    matcher.link_by(matcher.made)
    matcher.link_by(matcher.named)
    matcher.link_readers()
    return matcher.pairs()


def stripped(name: str) -> str:
    """
    >>> stripped("conv1_QuantizeLinear_Output"), stripped("conv1_quant"), stripped("features.0_float_1"), stripped("_q")
    ('conv1', 'conv1', 'features.0', '_q')
    """
    return _SUFFIX.sub("", name) or name


class _Matcher:
    def __init__(self, first: View, second: View) -> None:
        self.first, self.second = first, second
        self.links: dict[ir.Node, ir.Node] = {}
        self.linked: set[ir.Node] = set()  # nodes of the second
        self.ends: list[Pair] = []
        self._values = first.by_name()
        self._nodes = {node.name or "": node for node in first.nodes}

    def link_ends(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        """The inputs and outputs of the models."""
        for names, of in ((inputs, "inputs"), (outputs, "outputs")):
            ours, theirs = ({v.name: v for v in getattr(view.model.graph, of)} for view in (self.first, self.second))
            for name, other in names.items():
                one, two = self.first.origin(ours[name]), self.second.origin(theirs[other])
                if one is not None and two is not None:
                    self.ends.append(Pair(one, two, one.producer()))

    # --- by name

    def link_by(self, candidates: Callable[[ir.Node], Iterator[ir.Node]]) -> None:
        """Link each node of the second model with the first of its candidates that fits."""
        for node in self.second.nodes:
            if node not in self.linked:
                fitting = (found for found in (self._step_back(n, node) for n in candidates(node)) if found)
                self._link(next(fitting, None), node)

    def made(self, node: ir.Node) -> Iterator[ir.Node]:
        """The nodes of the first model that make a value of the same name."""
        names = [alias.name or "" for output in node.outputs for alias in self.second.aliases(output)]
        for name in dict.fromkeys([*names, *map(stripped, names)]):
            producer = self._values[name].producer() if name in self._values else None
            if producer is not None:
                yield producer

    def named(self, node: ir.Node) -> Iterator[ir.Node]:
        """The node of the first model that bears the same name."""
        for name in (node.name or "", stripped(node.name or "")):
            if name in self._nodes:
                yield self._nodes[name]

    def _step_back(self, node: ir.Node, other: ir.Node) -> ir.Node | None:
        """The node, or the one before it that it may be part of, if it does what `other` does and is free."""
        for _ in range(_FARTHEST):
            if node not in self.links and self._alike(node, other):
                return node
            source = self.first.operand(node)
            producer = source.producer() if source is not None else None
            if source is None or producer is None or not self._absorbable(node):
                return None
            if self.first.only_reader(source) is not node:
                return None
            node = producer
        return None

    def _alike(self, node: ir.Node, other: ir.Node) -> bool:
        return _kind(node) == _kind(other) or _kind(node) == self._kind_behind(other)

    def _kind_behind(self, node: ir.Node) -> str | None:
        """What a node finishes that makes floats of an integer operator's result."""
        for _ in range(_FARTHEST):
            source = self.second.operand(node) if node.op_type in _INTEGER_STEPS else None
            producer = source.producer() if source is not None else None
            if producer is None:
                return None
            node = producer
            if node.op_type.endswith("Integer"):
                return _kind(node)
        return None

    def _absorbable(self, node: ir.Node) -> bool:
        """Whether it may be part of what is before it: it changes one value, by constants alone."""
        varying = {v for v in node.inputs if v is not None and v not in self.first.constants}
        return node.op_type in _ABSORBED and len(varying) == 1 and not self.first.weighs(node)

    def _link(self, node: ir.Node | None, other: ir.Node) -> bool:
        if node is None or node in self.links or other in self.linked:
            return False
        self.links[node] = other
        self.linked.add(other)
        return True

    # --- by structure

    def link_readers(self) -> None:
        """Go on from what corresponds, until nothing more is found."""
        found = True
        while found:
            found = False
            for one, two in list(self._corresponding()):
                # What the first model does in several steps may be one in the second, and the other way round.
                for first, second in (
                    (a, b) for a in self._onward(one, self.first) for b in self._onward(two, self.second)
                ):
                    found = self._link_readers_of(first, second) or found

    def _corresponding(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        yield from ((end.first, end.second) for end in self.ends)
        for node, other in self.links.items():
            yield from zip(node.outputs, other.outputs, strict=False)

    def _onward(self, value: ir.Value, view: View) -> Iterator[ir.Value]:
        """The value, and what becomes of it in steps that may be missing in the other model."""
        for _ in range(_FARTHEST):
            yield value
            reader = view.only_reader(value)
            if reader is None or reader in self.links or reader in self.linked or reader.op_type not in _ABSORBED:
                return
            value = reader.outputs[0]

    def _link_readers_of(self, one: ir.Value, two: ir.Value) -> bool:
        ours, theirs = self._free(self.first.readers(one)), self._free(self.second.readers(two))
        found = False
        for key, nodes in ours.items():
            if len(nodes) == len(theirs.get(key, [])):
                for node, other in zip(nodes, theirs[key], strict=True):
                    found = self._link(node, other) or found
        return found

    def _free(self, readers: list[tuple[ir.Node, int]]) -> dict[tuple[str, int], list[ir.Node]]:
        """The readers that are not linked yet, by operator and as which input they read."""
        free: dict[tuple[str, int], list[ir.Node]] = {}
        for node, index in readers:
            if node not in self.links and node not in self.linked:
                free.setdefault((_kind(node), index), []).append(node)
        return free

    # --- values

    def pairs(self) -> list[Pair]:
        made = [
            self._settled(Pair(one, two, node))
            for node, other in self.links.items()
            for one, two in zip(node.outputs, other.outputs, strict=False)
        ]
        unique: list[Pair] = []
        ours: set[ir.Value] = set()
        theirs: set[ir.Value] = set()
        for pair in (*self.ends, *made):
            if pair.first not in ours and pair.second not in theirs:
                ours.add(pair.first)
                theirs.add(pair.second)
                unique.append(pair)
        position = self.first.position
        return sorted(unique, key=lambda p: position[producer] if (producer := p.first.producer()) else -1)

    def _settled(self, pair: Pair) -> Pair:
        """The pair behind the steps that only one of the models takes."""
        one, two = pair.first, pair.second
        while (reader := self.first.only_reader(one)) and reader not in self.links and self._absorbable(reader):
            one = reader.outputs[0]
        while (
            not self.second.is_quantized(two)
            and (reader := self.second.only_reader(two))
            and reader not in self.linked
            and reader.op_type in _ABSORBED
        ):
            two = reader.outputs[0]
        return Pair(one, two, pair.node)


def _kind(node: ir.Node) -> str:
    return _ONE_TYPE.get(node.op_type, node.op_type)
