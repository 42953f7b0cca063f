"""From a node to a call: its row of the table, and its attributes as Python values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch

from calibrant.engines.torch.ops import TABLE, Operator
from calibrant.engines.torch.opsets import modern
from calibrant.engines.torch.tensors import NARROW
from calibrant.graph.bodies import body_graphs

_STANDARD = ("", "ai.onnx")
_A = ir.AttributeType


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A node, ready to be called.

    operator: None where the table has none for it, and `why` says so. moved: inputs that are attributes of the node.
    bodies: the graphs inside of it.
    """

    node: ir.Node
    operator: Operator | None = None
    why: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    moved: Mapping[int, Any] = field(default_factory=dict)
    bodies: tuple[ir.Graph, ...] = ()

    @property
    def parameters(self) -> frozenset[int]:
        """The inputs that are read as numbers."""
        return frozenset() if self.operator is None else self.operator.parameters

    @property
    def outputs(self) -> int:
        """How many outputs it has, those left out at the end not counted."""
        return max((i for i, value in enumerate(self.node.outputs, 1) if value.name), default=0)


def prepare(node: ir.Node, opsets: Mapping[str, int]) -> Prepared:
    """The node's row of the table. opsets: the versions of the operators by domain."""
    bodies = tuple(body_graphs(node))
    domain = "" if node.domain in _STANDARD else node.domain
    version = opsets.get(domain, opsets.get("ai.onnx", 1) if not domain else 1)
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return Prepared(node, None, "it takes attributes of a function", bodies=bodies)
    given = {name: attribute_value(attribute) for name, attribute in node.attributes.items()}
    name, attributes, moved = (node.op_type, given, {}) if domain else modern(node.op_type, version, given)
    operator = TABLE.get((domain, name))
    if operator is None:
        return Prepared(node, None, "the torch engine does not have it", bodies=bodies)
    strange = sorted(attributes.keys() - operator.attributes)
    if strange:
        return Prepared(node, None, f"the torch engine does not know its attribute {strange[0]}", bodies=bodies)
    given_inputs = max((i for i, value in enumerate(node.inputs, 1) if value is not None), default=0)
    if operator.inputs is not None and given_inputs > operator.inputs:
        return Prepared(node, None, f"the torch engine does not know its input {given_inputs - 1}", bodies=bodies)
    if "output_dtype" in operator.attributes:
        attributes |= _narrow_type(node, attributes)
    inputs = {i: torch.tensor(value) if i in operator.parameters else value for i, value in moved.items()}
    return Prepared(node, operator, "", attributes, inputs, bodies)


def attribute_value(attribute: ir.Attr) -> Any:
    """As Python has it: numbers, text, tuples of them; tensors and graphs as onnx_ir has them."""
    if attribute.type in (_A.INTS, _A.FLOATS, _A.STRINGS):
        return tuple(attribute.value)
    return attribute.value


def _narrow_type(node: ir.Node, attributes: Mapping[str, Any]) -> dict[str, int]:
    """The output type of a QuantizeLinear whose zero point has fewer bits than the tensor that holds it."""
    zero_point = node.inputs[2] if node.op_type == "QuantizeLinear" and len(node.inputs) > 2 else None
    kind = None if zero_point is None else zero_point.dtype
    return {"output_dtype": int(kind)} if kind in NARROW and not attributes.get("output_dtype") else {}
