"""Margins in the making on a GPU: the device's twin of `MarginTally`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import triton

from calibrant.core import StateError
from calibrant.sketches import margins as host
from calibrant.sketches.cells import fold_cells
from calibrant.sketches.kernels import gpu_margins
from calibrant.sketches.kernels.gpu import Tensor
from calibrant.sketches.kernels.gpu_margins import TILE_OF_SLOTS
from calibrant.sketches.kernels.gpu_rows import FIRST_OWNER, HEAD, NOT_NAMED, SEEN, SHIFT
from calibrant.sketches.margins import COARSEST, EXACT, Margins

_HALVES = 2


class MarginRoom:
    """What the margins of several values share on a device: memory to work in, and the launch that makes tables fit.

    What was allocated is kept: a captured graph may hold on to it.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self._tables: list[list[int]] = []  # address, words of the head, slots
        self._kept: list[Tensor] = []
        self._words = torch.zeros(3, dtype=torch.int64, device=device)

    def allocate(self, channels: int) -> Tensor:
        """Tables of no rows, int64 (2 halves, words): see `gpu_rows`."""
        if is_capturing(self.device):
            raise StateError(
                "its memory cannot be taken while a CUDA graph is captured: add it once before, outside, and call clear"
            )
        # Of the coarsest keys, which are signs, there are three cells a channel.
        slots = max(4 * triton.next_power_of_2(max(host.LIMIT, 3 * channels)), TILE_OF_SLOTS)
        head = HEAD + 2 * channels
        tables = torch.zeros((_HALVES, head + 3 * slots), dtype=torch.int64, device=self.device)
        if not self._tables or slots > max(known for *_, known in self._tables):
            self.pairs = torch.empty((slots // 2, 2), dtype=torch.int32, device=self.device)
            self.owners = torch.empty(slots // 2, dtype=torch.int32, device=self.device)
            self._spare = torch.zeros(3 * slots, dtype=torch.int64, device=self.device)
        self._tables += [[table.data_ptr(), head, slots] for table in tables]
        described = torch.tensor(self._tables, dtype=torch.int64)
        if self.device.type == "cuda":
            described = described.pin_memory().to(self.device, non_blocking=True)
        self._descriptions = described
        self._kept += [self.pairs, self.owners, self._spare, self._descriptions, tables]
        return tables

    def fit(self) -> None:
        """Let every table have room again: keys become coarser where they must."""
        if self._tables:
            gpu_margins.fit(self._descriptions, self._spare, self._words, host.LIMIT, EXACT - COARSEST)


class DeviceMargins:
    """The margins of the rows of a value along an axis, for each half of the samples; `Margins` says what they are.

    The cells are in tables on the device, with slots for four times as many as there may be in the end.
    """

    def __init__(self, axis: int, room: MarginRoom) -> None:
        self._axis = axis
        self._room = room
        self._channels = 0  # while no row was seen

    def add(self, x: Tensor, along: int, channel_axis: int | None, half: Tensor) -> None:
        """Count the rows of x, contiguous, along an axis counted from the front; half: int32 (1,).

        Before more is added `MarginRoom.fit` is to be called."""
        shape, (channels, stride) = x.shape, _channels_of_rows(x.shape, along, channel_axis)
        rows = x.reshape(prod(shape[:along]), shape[along], prod(shape[along + 1 :]))
        if not self._channels:
            self._tables, self._channels = self._room.allocate(channels), channels
        count, most, room = len(rows) * rows.shape[2], self._slots // 2, self._room
        for first in range(0, count, most):
            if first:
                room.fit()
            part = min(most, count - first)
            gpu_margins.top_two(rows, first, part, channels, stride, room.pairs, room.owners)
            gpu_margins.tally(room.pairs, room.owners, part, rows.shape[1] == 1, self._tables, half, channels)

    def clear(self) -> None:
        """Forget all rows."""
        if self._channels:
            self._tables.zero_()

    def margins(self, half: int) -> Margins:
        """The margins of one half so far; waits for the device."""
        if not self._channels:
            return Margins.empty(self._axis)
        head, slots = self._tables[half].split([HEAD + 2 * self._channels, 3 * self._slots])
        head, slots = head.cpu().numpy(), slots.unflatten(0, (3, self._slots))
        if not head[SEEN]:
            return Margins.empty(self._axis)
        tied, single = head[HEAD:].reshape(2, self._channels).copy()
        owner, name, count = slots[:, slots[0] > 0]
        packed = name ^ NOT_NAMED
        order = (packed ^ (1 << 31)).argsort()  # of one channel; the host sorts what is in order in no time
        owner, packed, count = torch.stack([owner, packed, count])[:, order].cpu().numpy()
        keys = [(packed >> np.int64(32)).astype(np.int32), packed.astype(np.int32)]
        channel = (owner - FIRST_OWNER).astype(np.int32)
        (channel, top, second), (counts,) = fold_cells([channel, *keys], [count])
        bits = EXACT - int(head[SHIFT])
        return Margins(self._axis, bits, self._channels, channel, top, second, counts, tied, single)

    @property
    def _slots(self) -> int:
        return int(self._tables.shape[1] - HEAD - 2 * self._channels) // 3


def is_capturing(device: Any) -> bool:
    """Whether a CUDA graph is captured."""
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


def _channels_of_rows(shape: Sequence[int], along: int, channel_axis: int | None) -> tuple[int, int]:
    """How many channels there are, and how many rows in a row are of one; the rows in the order (outer, inner)."""
    if channel_axis is None:
        return 1, 1
    return shape[channel_axis], prod(shape[channel_axis + 1 :]) // (shape[along] if along > channel_axis else 1)
