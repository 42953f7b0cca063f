"""Placement: values go between host and device, and to numpy."""

from __future__ import annotations

from collections import deque
from typing import Any

import onnx_ir as ir
import torch

from calibrant.engines.torch.plan import Slot
from calibrant.engines.torch.tensors import NARROW, to_array

HOST = torch.device("cpu")
_KEPT = 8  # contents of one value, as shapes of samples take turns


class Placement:
    """Puts values where they are read. On the host FLOAT is float32, on the device it is `floating`."""

    def __init__(self, device: torch.device, floating: torch.dtype) -> None:
        self.device = torch.empty(0, device=device).device  # with its number: cuda is cuda:0
        self.floating = floating
        self._narrow = floating is not torch.float32
        self._uploads: dict[Slot, deque[tuple[torch.Tensor, torch.Tensor]]] = {}

    def on_host(self, x: Any) -> Any:
        """`x`, or the tensors of a list, on the host. Waits for the device if it is there."""
        if isinstance(x, list):
            return [self.on_host(item) for item in x]
        if not isinstance(x, torch.Tensor):
            return x
        here = x.cpu()
        return here.to(torch.float32) if self._narrow and here.dtype is self.floating else here

    def on_device(self, slot: Slot, x: Any) -> Any:
        """`x`, the value of `slot`, or the tensors of a list, on the device."""
        if isinstance(x, list):
            return [self.on_device(slot, item) for item in x]
        if not isinstance(x, torch.Tensor):
            return x
        if x.device != self.device:
            x = self._uploaded(slot, x) if x.device == HOST else x.to(self.device)
        return x.to(self.floating) if self._narrow and x.dtype is torch.float32 else x

    def _uploaded(self, slot: Slot, x: torch.Tensor) -> torch.Tensor:
        """The host's tensor on the device: the one that is there already, if it was the same not long ago."""
        known = self._uploads.setdefault(slot, deque(maxlen=_KEPT))
        for host, there in known:
            if host.dtype is x.dtype and torch.equal(host, x):
                return there
        known.append((x, x.to(self.device)))
        return known[-1][1]

    def uploads(self) -> list[torch.Tensor]:
        """All that came from the host and may be read from where it is."""
        return [there for known in self._uploads.values() for _, there in known]

    def array(self, value: ir.Value, x: Any) -> Any:
        """`x`, the content of `value`, as a numpy array of the type that the model says: FLOAT is always float32."""
        kind = value.dtype if isinstance(value.type, ir.TensorType) else None
        if kind in NARROW:
            return to_array(x, kind)
        computed = isinstance(x, torch.Tensor) and x.dtype is self.floating
        return to_array(x, ir.DataType.FLOAT if computed and kind in (None, ir.DataType.FLOAT) else None)
