"""load_torch_module: a module as a graph."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from calibrant.core.files import whole_files
from calibrant.exporters.files import external_name, save_model
from calibrant.graph import Graph, load_onnx_graph
from calibrant.modules.dimensions import name_batch
from calibrant.modules.inputs import Example
from calibrant.modules.naming import Parameter, name_after_modules
from calibrant.modules.tracing import trace

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def load_torch_module(module: torch.nn.Module, example: Example, keep: str | Path | None = None) -> Graph:
    """The graph of a module, as `load_onnx_graph` gives that of its ONNX file; the module itself stays as it is.

    Nodes, values and weights are named after modules and parameters (see `naming`). The batch may be of any size; where
    the module does not allow it, it is the example's, as `report` and the log say.
    keep: a file for the exported model, with `.data` beside it where it is larger than 2 GB; it appears whole or not at
        all. None: nothing is written.

    Raises ModelError for a module that cannot be exported, ExportError for a file that cannot be written.
    """
    target = None if keep is None else Path(keep)
    with ExitStack() as stack:
        places = stack.enter_context(whole_files(target, external_name(target))) if target is not None else []
        traced = trace(module, example)
        tensors = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
        shapes = {name: tuple(tensor.shape) for name, tensor in chain(*tensors)}
        parameters = {noted: Parameter(name, shapes.get(name, ())) for noted, name in traced.parameters.items()}
        name_after_modules(traced.model, traced.inputs, traced.outputs, parameters)
        name_batch(traced.model)
        _drop_notes(traced.model)
        if places:
            save_model(traced.model, places[0])
    graph = load_onnx_graph(traced.model)
    for note in traced.notes:
        log.warning("%s", note)
    graph.report[:0] = traced.notes
    return graph


def _drop_notes(model: ir.Model) -> None:
    """What torch noted for its developers: traces with the paths of this machine, and texts that vary by version."""
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
