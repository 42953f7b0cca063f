"""The packages of the extra `calibrant[torch]`."""

from __future__ import annotations

import importlib
from typing import Any

from calibrant.core import ModelError, SettingError


def import_torch(what: str) -> Any:
    """The package torch, if what its exporter needs is there too. what: who asks, for the error.

    Raises SettingError that says how to install the extra.
    """
    try:
        importlib.import_module("onnxscript")
        return importlib.import_module("torch")
    except ImportError as error:
        raise SettingError(f"{what} needs PyTorch and onnxscript ({error}): pip install 'calibrant[torch]'") from error


def check_module(torch: Any, module: object) -> None:
    """Raise ModelError for what is no module that can be traced."""
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got {type(module).__name__}; for a file: quantize_onnx_model")
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("a scripted module cannot be traced: give the torch.nn.Module that it was made from")
