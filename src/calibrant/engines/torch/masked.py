"""Masked: what counts of the values of a padded batch, as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from calibrant.engines.axes import Kept
from calibrant.engines.masking import Masking
from calibrant.engines.samples import Feed


class Masked:
    """What counts of one sample after the other. device: where tensors are cut."""

    def __init__(self, masking: Masking, device: torch.device) -> None:
        self._masking = masking
        self._device = device
        self._on_host: list[Kept] = []
        self._on_device: list[Kept] = []

    def begin(self, feed: Feed, number: int) -> None:
        """From now on, that sample. Raises DataError for a mask that is none."""
        self._masking.prepare(feed)
        self._on_host = self._masking.kept(feed, number)
        self._on_device = [replace(kept, positions=self._uploaded(kept.positions)) for kept in self._on_host]

    def parts(self, values: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        """See `Masking.parts`."""
        return self._masking.parts(values, self._on_device)

    def arrays(self, name: str, array: Any) -> Iterator[Any]:
        """The same, of one value that is on the host."""
        return (part[name] for part in self._masking.parts({name: array}, self._on_host))

    def _uploaded(self, positions: Any) -> Any:
        return positions if isinstance(positions, slice) else torch.from_numpy(positions).to(self._device)
