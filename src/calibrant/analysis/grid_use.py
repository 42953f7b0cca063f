"""How a tensor sits on its integers: what is cut off, which integers occur, which channels are lost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import TensorQuantizationConfig, dequantize, quantize

SATURATED = 0.5  # of a channel's elements


class GridUse:
    """Counts of a float tensor against the grid of `config`, over everything that was added.

    channel_axis: of the tensor, whose size along it never changes; None: it has no channels to be told apart.
    elements, clipped: how many were seen, and how many lie beyond the ends of the grid by more than half a step.

    Counts are integers: any order of the same arrays gives the same. Memory grows with grid and channels alone.

    >>> from calibrant.core import QuantizationProperty as P
    >>> config = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL, scale=0.5, offset=0)
    >>> use = GridUse(config, channel_axis=1)
    >>> dequantized = use.add(np.float32([[0.1, 1.0, 90.0], [0.2, 1.5, 80.0]]))
    >>> round(use.share_clipped, 3), use.integers, use.dead, use.saturated
    (0.333, 4, [0], [2])
    """

    def __init__(self, config: TensorQuantizationConfig, channel_axis: int | None = None) -> None:
        self._config = config
        self._axis = channel_axis
        self.elements = 0
        self.clipped = 0
        self._occurs = np.zeros(config.levels, np.bool_)
        self._per_channel: NDArray[np.int64] | None = None  # (4, channels): elements, clipped, not 0, not 0 as integers

    def add(self, exact: NDArray[Any], stored: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """Take in one array; returns it as the grid gives it back. NaN counts as 0. Raises as `quantize` does.

        stored: what is put on the grid in its stead: a weight whose rounding was chosen.
        """
        config = self._config
        if np.isnan(exact).any():
            exact = np.where(np.isnan(exact), np.zeros_like(exact), exact)
        integers = quantize(exact if stored is None else stored, config)
        found = dequantize(integers, config)
        half = np.asarray(config.scale).reshape(config.parameter_shape(exact.ndim)) * np.float32(0.5 + 1e-3)
        beyond = ((integers == config.quant_min) & (found - exact > half)) | (
            (integers == config.quant_max) & (exact - found > half)
        )
        self.elements += exact.size
        self.clipped += int(beyond.sum())
        self._occurs[(integers - config.quant_min).reshape(-1)] = True
        if self._axis is not None and -exact.ndim <= self._axis < exact.ndim:
            self._count_channels(exact, found, beyond)
        return found

    @property
    def share_clipped(self) -> float:
        """Of the elements; 0 where there are none."""
        return self.clipped / max(1, self.elements)

    @property
    def integers(self) -> int:
        """How many integers of the grid occur."""
        return int(self._occurs.sum())

    @property
    def share_used(self) -> float:
        """Of the grid's integers, those that occur."""
        return self.integers / self._config.levels

    @property
    def channels(self) -> int | None:
        """How many there are; None where none are told apart."""
        return None if self._per_channel is None else self._per_channel.shape[1]

    @property
    def dead(self) -> list[int]:
        """Channels that are not all 0, and become all 0."""
        if self._per_channel is None:
            return []
        _, _, exact, found = self._per_channel
        return [int(channel) for channel in np.flatnonzero((exact > 0) & (found == 0))]

    @property
    def saturated(self) -> list[int]:
        """Channels of whose elements more than half are clipped."""
        if self._per_channel is None:
            return []
        elements, clipped, _, _ = self._per_channel
        return [int(channel) for channel in np.flatnonzero(clipped > SATURATED * elements)]

    def _count_channels(self, exact: NDArray[Any], found: NDArray[Any], beyond: NDArray[np.bool_]) -> None:
        axis = self._axis % exact.ndim  # type: ignore[operator]
        others = tuple(a for a in range(exact.ndim) if a != axis)
        elements = np.full(exact.shape[axis], exact.size // max(1, exact.shape[axis]))
        counts = [(array != 0).sum(axis=others) for array in (beyond, exact, found)]
        more = np.stack([elements, *counts]).astype(np.int64)
        if self._per_channel is None:
            self._per_channel = more
        else:
            self._per_channel += more
