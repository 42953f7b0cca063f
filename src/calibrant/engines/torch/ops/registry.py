"""The table of operators, and how one gets into it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from torch import Tensor

from calibrant.engines.torch.tensors import DTYPES

Function = TypeVar("Function", bound=Callable[..., Any])


__all__ = ["TABLE", "Call", "Operator", "Tensor", "Unsupported", "op"]


class Unsupported(Exception):
    """An operator of the table is asked for something that its function does not do; the text says what."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a function may ask about its call.

    device: where it makes tensors of its own. floating: what FLOAT is computed in. outputs: how many the node has.
    body: runs a graph inside of the node on such inputs.
    """

    device: torch.device
    floating: torch.dtype
    outputs: int
    body: Callable[[ir.Graph, Sequence[Any]], list[Any]]

    def dtype(self, element_type: int) -> torch.dtype:
        """What values of that ONNX type are computed in. Raises Unsupported for one that torch does not have."""
        kind = ir.DataType(element_type)
        if kind is ir.DataType.FLOAT:
            return self.floating
        if kind not in DTYPES:
            raise Unsupported(f"elements of type {kind}")
        return DTYPES[kind]


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table.

    function: takes the inputs in order, None for one that is left out, and the attributes by name; returns the output,
        or a tuple of them. Never changes an input.
    parameters: the inputs that it reads as numbers; they are tensors on the host, the others on the device.
    attributes: those it knows; a node that has others is not for it. inputs: how many it takes at most; None: any
        number. asks: whether it takes `call`.
    """

    function: Callable[..., Any]
    parameters: frozenset[int]
    attributes: frozenset[str]
    inputs: int | None
    asks: bool


TABLE: dict[tuple[str, str], Operator] = {}


def op(*names: str, parameters: Collection[int] = (), domain: str = "") -> Callable[[Function], Function]:
    """Enter the function into the table under these names.

    Its positional arguments are the inputs, its keyword-only ones the attributes of the newest opset, with their
    defaults; `call` is no attribute but a `Call`.
    """

    def enter(function: Function) -> Function:
        taken = inspect.signature(function).parameters.values()
        keywords = {p.name for p in taken if p.kind is p.KEYWORD_ONLY}
        positional = [p for p in taken if p.kind is p.POSITIONAL_OR_KEYWORD]
        inputs = None if any(p.kind is p.VAR_POSITIONAL for p in taken) else len(positional)
        row = Operator(function, frozenset(parameters), frozenset(keywords - {"call"}), inputs, "call" in keywords)
        for name in names:
            if (domain, name) in TABLE:
                raise ValueError(f"operator {name} is in the table already")
            TABLE[domain, name] = row
        return function

    return enter
