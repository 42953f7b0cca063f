"""The weights of a model, on the device once and for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch

from calibrant.core import ModelError
from calibrant.engines.torch.placement import Placement
from calibrant.engines.torch.tensors import to_tensor
from calibrant.engines.torch.values import constant_of


class Constants:
    """Tensors of initializers and Constant nodes: each is made when it is first read, and kept.

    On the host FLOAT is float32; on the device it is what the engine computes in.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._on_host: dict[ir.Value, Any] = {}
        self._on_device: dict[ir.Value, Any] = {}
        self._instead: Mapping[ir.Value, torch.Tensor] = {}

    @contextmanager
    def replaced_by(self, tensors: Mapping[ir.Value, torch.Tensor]) -> Iterator[None]:
        """Inside, these tensors stand for constants."""
        self._instead = tensors
        try:
            yield
        finally:
            self._instead = {}

    def on_host(self, value: ir.Value) -> Any:
        """The constant as the model has it. Raises ModelError for a value that is none."""
        if value in self._instead:
            return self._placement.on_host(self._instead[value])
        if value not in self._on_host:
            self._on_host[value] = _tensor_of(value)
        return self._on_host[value]

    def on_device(self, value: ir.Value) -> Any:
        """The constant where the engine computes."""
        if value in self._instead:
            return self._placement.on_device(value, self._instead[value])
        if value not in self._on_device:
            tensor = self._on_host.get(value)
            self._on_device[value] = self._placed(_tensor_of(value) if tensor is None else tensor)
        return self._on_device[value]

    def _placed(self, tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor):
            return tensor
        dtype = self._placement.floating if tensor.dtype is torch.float32 else tensor.dtype
        return tensor.to(self._placement.device, dtype)


def _tensor_of(value: ir.Value) -> Any:
    constant = constant_of(value)
    if constant is None:
        raise ModelError(f"nothing gives '{value.name}' a value: it is no constant, and was not fed")
    return to_tensor(constant.numpy())
