"""Operators with graphs inside. What decides is a number on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from calibrant.engines.torch.ops.registry import Call, Tensor, op
from calibrant.engines.torch.tensors import number


@op("If", parameters=[0])
def if_(condition: Tensor, *, then_branch: ir.Graph, else_branch: ir.Graph, call: Call) -> tuple[Any, ...]:
    return tuple(call.body(then_branch if number(condition) else else_branch, []))


@op("Loop", parameters=[0, 1])
def loop(trips: Tensor | None, condition: Tensor | None, *carried: Any, body: ir.Graph, call: Call) -> tuple[Any, ...]:
    """Carried values first, then what each turn gives, stacked."""
    values: list[Any] = list(carried)
    gathered: list[list[Tensor]] = [[] for _ in range(len(body.outputs) - 1 - len(values))]
    turn, goes_on = 0, condition is None or bool(number(condition))
    while goes_on and (trips is None or turn < number(trips)):
        made = call.body(body, [torch.tensor(turn), torch.tensor(True), *values])
        goes_on, values = bool(made[0]), made[1 : 1 + len(values)]
        for kept, value in zip(gathered, made[1 + len(values) :], strict=True):
            kept.append(value)
        turn += 1
    stacked = [_stacked(kept, out, call) for kept, out in zip(gathered, body.outputs[1 + len(values) :], strict=True)]
    return (*values, *stacked)


def _stacked(values: Sequence[Tensor], out: ir.Value, call: Call) -> Tensor:
    """Of no turn: nothing, of the shape that the body says."""
    if values:
        return torch.stack(list(values))
    inner = [] if out.shape is None else [size if isinstance(size, int) else 0 for size in out.shape]
    dtype = call.floating if out.dtype is None else call.dtype(out.dtype)
    return torch.empty([0, *inner], dtype=dtype, device=call.device)


@op("Scan")
def scan(
    *inputs: Tensor,
    body: ir.Graph,
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
    call: Call,
) -> tuple[Tensor, ...]:
    states, scanned = list(inputs[:-num_scan_inputs]), inputs[-num_scan_inputs:]
    outputs = len(body.outputs) - len(states)
    axes = scan_input_axes or [0] * num_scan_inputs
    backwards = scan_input_directions or [0] * num_scan_inputs
    parts = [
        list(reversed(x.unbind(axis)) if back else x.unbind(axis))
        for x, axis, back in zip(scanned, axes, backwards, strict=True)
    ]
    gathered: list[list[Tensor]] = [[] for _ in range(outputs)]
    for turn in zip(*parts, strict=True):
        made = call.body(body, [*states, *turn])
        states = made[: len(states)]
        for kept, value in zip(gathered, made[len(states) :], strict=True):
            kept.append(value)
    out_axes, out_back = scan_output_axes or [0] * outputs, scan_output_directions or [0] * outputs
    ordered = [list(reversed(kept)) if back else kept for kept, back in zip(gathered, out_back, strict=True)]
    return (*states, *(torch.stack(kept, axis) for kept, axis in zip(ordered, out_axes, strict=True)))
