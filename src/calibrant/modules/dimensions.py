"""A name for the dimension that may be of any size."""

from __future__ import annotations

import re

import onnx_ir as ir

BATCH = "batch"


def name_batch(model: ir.Model) -> None:
    """Call the free first dimension of the inputs `batch`, wherever it occurs (`12*s77` becomes `12*batch`).

    Where it differs between inputs, the next ones are `batch_1`, `batch_2`.
    """
    new: dict[str, str] = {}
    for value in model.graph.inputs:
        symbol = None if value.shape is None or not len(value.shape) else value.shape[0]
        if isinstance(symbol, ir.SymbolicDim) and symbol.value is not None and symbol.value not in new:
            new[symbol.value] = f"{BATCH}_{len(new)}" if new else BATCH
    values = [*model.graph.inputs, *(v for node in model.graph.all_nodes() for v in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, new) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, new: dict[str, str]) -> int | str | None:
    if not isinstance(dim, ir.SymbolicDim) or dim.value is None:
        return dim if isinstance(dim, int) else None
    return re.sub(r"[A-Za-z_]\w*", lambda word: new.get(word[0], word[0]), dim.value)
