"""From a module to an onnx_ir model, by torch.export and torch.onnx."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from calibrant.core import ModelError
from calibrant.modules.extra import check_module, import_torch
from calibrant.modules.inputs import Example
from calibrant.modules.outputs import named_tensors

if TYPE_CHECKING:
    import torch

# What torch says of its own code, or of what it does by design: nothing that a caller could change.
_TORCH_S_OWN_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"_check_is_size will be removed"),  # its decompositions of recurrent layers call it
    (UserWarning, r"The tensor attributes? self\.(\S+\.)?_flat_weights"),  # nn.RNNBase puts them back itself
)


@dataclass(frozen=True)
class Traced:
    """An exported module; the exporter's names are still on its nodes.

    inputs, outputs: the names that the model's inputs and outputs should have, in order.
    parameters: the names of parameters and buffers in the exporter's notes -> those they have in the module.
    notes: what was done otherwise than asked.
    """

    model: ir.Model
    inputs: list[str]
    outputs: list[str]
    parameters: dict[str, str]
    notes: list[str]


def trace(module: torch.nn.Module, example: Example) -> Traced:
    """Export the module as it infers, without changing it; the model has weights of its own.

    The batch may then be of any size; where the module does not allow that, it is the example's, and noted.
    Raises ModelError, with torch's reason, for a module that cannot be traced, or not be expressed in ONNX.
    """
    torch = import_torch("a module")
    check_module(torch, module)
    notes: list[str] = []
    with _inferring(module) as outputs, warnings.catch_warnings():
        for category, message in _TORCH_S_OWN_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        try:
            program, exported = _export(torch, module, example.of_two(), any_batch=example.batch is not None)
        except Exception as error:  # torch raises whatever it comes upon while tracing
            try:
                program, exported = _export(torch, module, example, any_batch=False)
            except Exception as again:
                raise ModelError(
                    f"{type(module).__name__} cannot be exported to ONNX: {_reason(again)}. Change what it says, or "
                    "export the module yourself and use quantize_onnx_model"
                ) from again
            notes.append(f"the batch is fixed at {example.batch}: {_reason(error)}")
    model, signature = exported.model, program.graph_signature
    inputs = [name for name in signature.user_inputs if isinstance(name, str)]
    if (len(inputs), len(outputs)) != (len(model.graph.inputs), len(model.graph.outputs)):
        raise ModelError(
            f"{type(module).__name__} takes {len(inputs)} tensors and returns {len(outputs)}, but was exported with "
            f"{len(model.graph.inputs)} inputs and {len(model.graph.outputs)} outputs: export it to ONNX yourself and "
            "use quantize_onnx_model"
        )
    _own_weights(model)
    parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return Traced(model, inputs, outputs, parameters, notes)


def _export(torch: Any, module: torch.nn.Module, example: Example, any_batch: bool) -> tuple[Any, Any]:
    """The traced program, and its ONNX form."""
    example = example.apart()  # torch.export leaves its marks on the tensors it was given
    shapes = None
    if any_batch:
        # DYNAMIC is an error where the module fixes the size. AUTO, and a Dim by name, would fix it and say nothing.
        free = {0: torch.export.Dim.DYNAMIC}
        shapes = example.map(lambda leaf: free if example.is_batch(leaf) else None)
    arguments = example.arguments
    program = torch.export.export(module, arguments.args, arguments.kwargs, dynamic_shapes=shapes, strict=False)
    return program, torch.onnx.export(program, dynamo=True, verbose=False)


@contextmanager
def _inferring(module: torch.nn.Module) -> Iterator[list[str]]:
    """The module in evaluation mode, and returning a tuple of tensors; afterwards it is as before.

    Yields the names of its outputs: a list that is empty until the module has run.
    """
    names: list[str] = []

    def flatten(_module: Any, _inputs: Any, output: Any) -> tuple[torch.Tensor, ...]:
        found = named_tensors(output)
        names[:] = [name for name, _ in found]
        return tuple(tensor for _, tensor in found)

    training = [(part, part.training) for part in module.modules()]
    hook = module.register_forward_hook(flatten)
    try:
        module.eval()
        yield names
    finally:
        hook.remove()
        for part, flag in training:
            if part.training is not flag:
                part.train(flag)  # by its own method, which may do more: LoRA layers take their update out again
        for part, flag in training:
            part.training = flag


def _own_weights(model: ir.Model) -> None:
    """Copy the weights, which are the module's own memory: what it learns later is not for this model."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=value.name)


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom, in one line: torch wraps its errors in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line.removeprefix("- ") for line in lines if line.startswith("- ")), None)  # below a headline
    text = told or (lines[0] if lines else type(error).__name__)
    return text.split(". ")[0].rstrip(".")
