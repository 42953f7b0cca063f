"""What older opsets say differently, said as the newest does: the one place that knows of versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

# Operator -> the opset that made inputs of attributes, and which became which.
_BECAME_INPUTS: dict[str, tuple[int, dict[str, int]]] = {
    "Clip": (11, {"min": 1, "max": 2}),
    "DFT": (20, {"axis": 2}),
    "Dropout": (12, {"ratio": 1}),
    "Pad": (11, {"pads": 1, "value": 2}),
    "ReduceSum": (13, {"axes": 1}),
    "Slice": (10, {"starts": 1, "ends": 2, "axes": 3}),
    "Split": (13, {"split": 1}),
    "Squeeze": (13, {"axes": 1}),
    "TopK": (10, {"k": 1}),
    "Unsqueeze": (13, {"axes": 1}),
    "Upsample": (9, {"scales": 1}),
    **{f"Reduce{kind}": (18, {"axes": 1}) for kind in _REDUCTIONS},
}
_RENAMED: dict[str, tuple[int, str]] = {  # what the operator did before that opset is entered under another name
    "GroupNormalization": (21, "GroupNormalization:18"),
    "Hardmax": (13, "Hardmax:1"),
    "LogSoftmax": (13, "LogSoftmax:1"),
    "Resize": (11, "Upsample"),
    "Scan": (9, "Scan:8"),
    "Softmax": (13, "Softmax:1"),
}


def modern(op_type: str, version: int, attributes: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[int, Any]]:
    """The name in the table, the attributes, and further inputs by their index, of an operator of that opset.

    What the table does not do in that form keeps attributes that its function does not know.
    """
    left, moved = dict(attributes), {}
    since, places = _BECAME_INPUTS.get(op_type, (0, {}))
    if version < since:
        moved = {places[name]: left.pop(name) for name in places if name in left}
        if op_type == "DFT":
            moved.setdefault(2, 1)  # the axis that it was by default
    before, name = _RENAMED.get(op_type, (0, op_type))
    return (name if version < before else op_type), left, moved
