"""Who counts the values: the one place that knows where that happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from calibrant.engines.statistics import Statistics
from calibrant.engines.taps import Taken
from calibrant.engines.torch.tensors import to_array
from calibrant.sketches import Halves, SketchSpec


class TensorStatistics(Protocol):
    """Counts tensors as they come to be, and gives the sketches in the end."""

    def add(self, values: Mapping[str, torch.Tensor], half: int) -> None:
        """Count these values, of a sample of that half. They may be gone afterwards."""

    def sketches(self) -> Halves:
        """What was collected of every value."""


def statistics_on(device: torch.device, wanted: Mapping[str, SketchSpec], threads: int) -> TensorStatistics:
    """What counts values of that device: on the host for every device yet, to which tensors of CUDA are copied."""
    return HostStatistics(wanted, threads)


class HostStatistics:
    """Counts on the host."""

    def __init__(self, wanted: Mapping[str, SketchSpec], threads: int) -> None:
        self._statistics = Statistics(wanted)
        self._statistics.use_threads(threads)

    def add(self, values: Mapping[str, torch.Tensor], half: int) -> None:
        self._statistics.add([Taken(name, to_array(value)) for name, value in values.items()], half)

    def sketches(self) -> Halves:
        return self._statistics.sketches()
