"""The mask of a graph: the input that says which positions of a padded batch count."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.core import SettingError, unknown
from calibrant.graph.graph import Graph

NO_NUMBERS = (ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)


def name_mask(graph: Graph, name: str | None) -> None:
    """Let that input of the model, [batch, sequence], say from now on which positions count; None: all do.

    Raises SettingError for a name that is no input, and for an input of another rank, or not of numbers.
    """
    if name is not None:
        if name not in graph.input_names:
            raise SettingError(f"mask: {unknown('input', name, graph.input_names)}")
        shape, dtype = graph.shape_of(name), graph.dtype_of(name)
        if (shape is not None and len(shape) != 2) or dtype in NO_NUMBERS:
            dims = "of any shape" if shape is None else "[" + ", ".join(map(str, shape)) + "]"
            kind = dtype.name.lower() if dtype is not None else "of any type"
            raise SettingError(
                f"mask: '{name}' is {kind} {dims}; expected an input of numbers [batch, sequence], 1 where a position "
                "counts and 0 where it is padding"
            )
    graph.mask = name
