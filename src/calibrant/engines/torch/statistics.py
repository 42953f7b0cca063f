"""Who counts the values: the one place that knows where that happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Protocol

import torch

from calibrant.engines.statistics import Statistics
from calibrant.engines.taps import Batch, Taken
from calibrant.engines.torch.tensors import to_array
from calibrant.sketches import Halves, SketchSpec


class TensorStatistics(Protocol):
    """Counts tensors as they come to be, and gives the sketches in the end."""

    def add(self, values: Mapping[str, torch.Tensor], half: int | torch.Tensor) -> None:
        """Count these values, of a sample of that half. They may be gone afterwards."""

    def sketches(self) -> Halves:
        """What was counted of every value since the start, or since `clear`."""

    def clear(self) -> None:
        """Forget what was counted."""


def statistics_on(
    device: torch.device, wanted: Mapping[str, SketchSpec], threads: int, note: Callable[[str], None]
) -> TensorStatistics:
    """What counts values of that device: there, if it can be. note: told where it cannot."""
    if device.type != "cuda":
        return HostStatistics(wanted, threads)
    if find_spec("triton") is None:
        note("values are counted on the host, as Triton is not installed, which comes with torch on Linux")
        return HostStatistics(wanted, threads)
    from calibrant.sketches.device import DeviceCollectors

    return DeviceCollectors(wanted, device)


class HostStatistics:
    """Counts on the host."""

    def __init__(self, wanted: Mapping[str, SketchSpec], threads: int) -> None:
        self._wanted = wanted
        self._threads = threads
        self.clear()

    def add(self, values: Mapping[str, torch.Tensor], half: int | torch.Tensor) -> None:
        self._statistics.add(Batch([Taken(name, to_array(value)) for name, value in values.items()]), int(half))

    def sketches(self) -> Halves:
        return self._statistics.sketches()

    def clear(self) -> None:
        self._statistics = Statistics(self._wanted)
        self._statistics.use_threads(self._threads)
