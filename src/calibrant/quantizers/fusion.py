"""Activations that a runtime computes inside the operator before them.

Those that exporters write as several nodes (SiLU, Gelu, HardSwish) come in many spellings: x * sigmoid(x);
x / 2 * (1 + erf(x / sqrt 2)) with its five nodes in any order; x * clip(x + 3, 0, 6) / 6. So they are recognised by
what they compute: a closed group of element-wise nodes is run on some numbers and compared with the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

F64 = NDArray[np.float64]
MOST_NODES = 9
PROBES: F64 = np.concatenate([np.linspace(-8, 8, 65), [-30.0, 30.0]])
PROBES.flags.writeable = False

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: F64) -> F64:
    return np.asarray(1 / (1 + np.exp(-x)))


def _hard_sigmoid(x: F64, alpha: float, beta: float) -> F64:
    return np.asarray(np.clip(alpha * x + beta, 0, 1))


def _gelu_tanh(x: F64) -> F64:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


# Names that a Row may fuse beside ONNX operators. "Gelu" and "HardSwish" are ONNX operators and patterns.
PATTERNS: dict[str, tuple[Callable[[F64], F64], ...]] = {
    "SiLU": (lambda x: x * _sigmoid(x),),
    "HardSwish": (lambda x: x * np.clip(x + 3, 0, 6) / 6,),
    "Gelu": (lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))), _gelu_tanh),
    "Mish": (lambda x: x * np.tanh(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)),),
}
_TOLERANCE = 1e-4  # far below what tells the patterns apart; constants such as 1.702 or 0.0447 are written in float32

_ELEMENTWISE: dict[str, Callable[..., F64]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Exp": np.exp,
    "Tanh": np.tanh,
    "Erf": _erf,
    "Sigmoid": _sigmoid,
    "Relu": lambda x: np.maximum(x, 0),
    "Softplus": lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0),
    "Min": lambda *xs: reduce(np.minimum, xs),
    "Max": lambda *xs: reduce(np.maximum, xs),
    "Identity": lambda x: x,
    "Clip": lambda x, low=None, high=None: np.clip(x, low, high),
}


def fused_behind(head: ir.Value, fuses: tuple[str, ...]) -> list[ir.Node]:
    """The nodes behind `head` that the runtime runs together with what makes it, in order; none where it does not.

    The last node makes the value that leaves; `head` and what lies between have no other readers.
    """
    if head.is_graph_output():
        return []
    uses = list(head.uses())
    if len(uses) == 1 and uses[0].idx == 0:
        reader = uses[0].node
        if reader.op_type in fuses and not reader.domain and reader.graph is head.graph and _constant_rest(reader):
            return [reader]
    wanted = {name: PATTERNS[name] for name in fuses if name in PATTERNS}
    return _closed_group(head, wanted) if wanted else []


def _constant_rest(node: ir.Node) -> bool:
    return all(v is None or v.const_value is not None for v in node.inputs[1:])


def _closed_group(head: ir.Value, wanted: dict[str, tuple[Callable[[F64], F64], ...]]) -> list[ir.Node]:
    """Grow the group of nodes that compute from `head` alone, until it is closed and computes one of `wanted`."""
    made: dict[ir.Value, F64] = {head: PROBES}
    group: list[ir.Node] = []
    while len(group) < MOST_NODES:
        node = _next_member(made, group)
        if node is None:
            return []
        result = _run(node, made)
        if result is None:
            return []
        group.append(node)
        made[node.outputs[0]] = result
        inside = [v for v in made if v is not node.outputs[0]]
        closed = not any(v.is_graph_output() or any(u.node not in group for u in v.uses()) for v in inside)
        if closed and any(_same(result, f(PROBES)) for functions in wanted.values() for f in functions):
            return group
    return []


def _next_member(made: dict[ir.Value, F64], group: list[ir.Node]) -> ir.Node | None:
    """A node outside the group that reads nothing but the group's values and constants of one number."""
    for value in made:
        for use in value.uses():
            node = use.node
            if node in group or node.graph is not value.graph or node.domain:
                continue
            if node.op_type not in _ELEMENTWISE and node.op_type != "HardSigmoid":
                continue
            if all(v is None or v in made or _number(v) is not None for v in node.inputs):
                return node
    return None


def _run(node: ir.Node, made: dict[ir.Value, F64]) -> F64 | None:
    """What the node makes of the probes; None where it cannot be told."""
    function = _ELEMENTWISE.get(node.op_type)
    if node.op_type == "HardSigmoid":
        alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        function = partial(_hard_sigmoid, alpha=alpha, beta=beta)
    if function is None or len(node.outputs) != 1:
        return None
    operands = [None if v is None else made[v] if v in made else _number(v) for v in node.inputs]
    with np.errstate(all="ignore"):
        return np.asarray(function(*operands))


def _number(value: ir.Value) -> float | None:
    tensor = value.const_value
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _same(one: F64, other: F64) -> bool:
    return bool(np.all(np.abs(one - other) <= _TOLERANCE * (1 + np.abs(other))))
