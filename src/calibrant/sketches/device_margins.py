"""Margins in the making on a GPU: the device's twin of `MarginTally`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from calibrant.core import StateError
from calibrant.sketches import margins as host
from calibrant.sketches.cells import I32, I64, fold_cells
from calibrant.sketches.kernels import gpu
from calibrant.sketches.kernels.gpu import Tensor
from calibrant.sketches.margins import COARSEST, EXACT, Margins

ROWS = 1 << 20  # room for rows that wait; half of it is kept for those that a captured graph adds
_MOST_SHIFT = EXACT - COARSEST
_NOBODY = 2**63 - 1  # the code of no cell: of two equal keys
_APART = 99  # as a shift: makes one of nothing
_SPREAD = 1024  # words that nobody reads, for results that nobody wants: one would be written by all in turn


class DeviceMargins:
    """The margins of the rows along an axis, for each half of the samples; `Margins` says what they are.

    Rows wait until there are enough of them to be worth sorting, and are then folded into the cells, all on the device.
    """

    def __init__(self, axis: int, device: Any) -> None:
        self._axis = axis
        self._device = device
        self._channels = 0  # while no row was seen
        self._pending = 0  # rows that wait, at most
        self._of_a_replay = 0  # rows that a replay leaves waiting, at most: the most of any captured graph

    def add(self, x: Tensor, along: int, channel_axis: int | None, half: Tensor) -> None:
        """Count the rows of x, contiguous, along an axis counted from the front; half: int32 (1,)."""
        shape, (channels, stride) = x.shape, _channels_of_rows(x.shape, along, channel_axis)
        rows = x.reshape(prod(shape[:along]), shape[along], prod(shape[along + 1 :]))
        if not self._channels:
            self._allocate(channels)
        count, capturing = len(rows) * rows.shape[2], is_capturing(self._device)
        # Before a graph is replayed there may be as many rows as `replayed` allows.
        waiting = ROWS // 2 if capturing else self._pending
        for first in range(0, count, ROWS // 2):
            part = min(ROWS // 2, count - first)
            if waiting + part > ROWS:
                self._fold(waiting)
                waiting = 0
            gpu.top_two(rows, first, part, channels, stride, self._pairs, self._groups, self._cursor, half)
            gpu.advance(self._cursor, part, ROWS, half)
            waiting += part
        if capturing:
            self._of_a_replay = max(self._of_a_replay, min(waiting, count))
        else:
            self._pending = waiting
            self._fold_many()

    def replayed(self) -> None:
        """A captured graph added rows once more."""
        self._pending += self._of_a_replay
        self._fold_many()

    def clear(self) -> None:
        """Forget all rows."""
        self._pending = 0
        if self._channels:
            self._cursor.zero_()
            self._alike.zero_()
            for cells in self._cells:
                cells.clear()

    def margins(self, half: int) -> Margins:
        """The margins of one half so far; waits for the device. StateError where rows found no room."""
        if not self._channels:
            return Margins.empty(self._axis)
        if self._pending:
            self._fold(self._pending)
            self._pending = 0
        _, lost, *seen = self._cursor.tolist()
        if lost:
            raise StateError(
                f"{lost} rows of a replayed CUDA graph are lost, as nobody made room for them: call "
                "DeviceCollectors.replayed after each replay"
            )
        if not seen[half]:
            return Margins.empty(self._axis)
        alike = self._alike[: 4 * self._channels].cpu().numpy().reshape(2, 2, self._channels)
        bits, (channel, top, second), counts = self._cells[half].on_host()
        tied, single = (alike[alone, half].copy() for alone in range(2))
        return Margins(self._axis, bits, self._channels, channel, top, second, counts, tied, single)

    def _allocate(self, channels: int) -> None:
        if is_capturing(self._device):
            raise StateError(
                "its memory cannot be taken while a CUDA graph is captured: add it once before, outside, and call clear"
            )
        self._channels = channels
        self._pairs = torch.zeros((ROWS, 2), dtype=torch.int32, device=self._device)
        self._groups = torch.zeros(ROWS, dtype=torch.int32, device=self._device)
        self._cursor = torch.zeros(4, dtype=torch.int64, device=self._device)  # see `gpu.advance`
        self._alike = torch.zeros(4 * channels + _SPREAD, dtype=torch.int64, device=self._device)  # rows by group
        self._cells = [_Cells(channels, self._device) for _ in range(2)]

    def _fold_many(self) -> None:
        if self._pending > ROWS // 2:
            self._fold(self._pending)
            self._pending = 0

    def _fold(self, rows: int) -> None:
        """Bring the waiting rows into the cells; there are no more than `rows`, or they count as lost."""
        rows = min(rows, ROWS)
        (top, second), groups = self._pairs[:rows].unbind(1), self._groups[:rows]
        place = torch.arange(rows, device=self._device)
        kept = (place < self._cursor[0]) & (groups >= 0)
        self._cursor[1] += (self._cursor[0] - rows).clamp(min=0)
        self._cursor[:1].zero_()  # to assign a number to an element would wait for the device
        alike = kept & (top == second)
        self._alike.index_add_(
            0, torch.where(alike, groups, 4 * self._channels + place % _SPREAD), torch.ones_like(place)
        )
        code = torch.where(kept & ~alike, _spread(top) * 2 + _spread(second), _NOBODY)
        channel, half = groups % self._channels, groups // self._channels % 2
        for number, cells in enumerate(self._cells):
            cells.add(torch.where(half == number, code, _NOBODY), channel)


class _Cells:
    """Cells of one half, sorted. A cell is named by its code: the bits of its two keys in turn, the highest ones first.

    So cells that are one for coarser keys lie side by side, and how far two neighbours differ says at which shift of
    their keys they become one: that tells without trying how coarse the keys must be for the cells to fit.
    """

    def __init__(self, channels: int, device: Any) -> None:
        self._most = host.LIMIT
        self._room = max(self._most, 3 * channels)  # the coarsest keys are signs: three cells a channel
        self._channels = channels
        self._code = torch.empty(self._room + _SPREAD, dtype=torch.int64, device=device)
        self._count, self._channel = torch.empty_like(self._code), torch.empty_like(self._code)
        self._shift = torch.zeros(1, dtype=torch.int64, device=device)
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._code.fill_(_NOBODY)
        self._count.zero_()
        self._channel.fill_(self._channels)
        self._shift.zero_()

    def add(self, code: Tensor, channel: Tensor) -> None:
        """Add a row for each code that is not _NOBODY."""
        code, count = torch.cat([self._code, code]), torch.cat([self._count, torch.ones_like(code)])
        alive = code != _NOBODY
        channel = torch.where(alive, torch.cat([self._channel, channel]), self._channels)
        code, order = code.sort()
        channel, count = channel[order], torch.where(alive, count, 0)[order]
        if self._channels > 1:
            channel, order = channel.sort(stable=True)
            code, count = code[order], count[order]
        alive = code != _NOBODY
        needed = (_bit_length(code[1:] ^ code[:-1]) + 1) // 2  # the shift that makes it one with the cell before
        needed = torch.where(channel[1:] == channel[:-1], needed, _APART)
        needed = torch.where(alive, torch.cat([torch.full_like(code[:1], _APART), needed]), -1)
        shifts = torch.arange(_MOST_SHIFT + 1, device=code.device)
        number = (needed > shifts[:, None]).sum(1)
        too_many = (shifts < _MOST_SHIFT) & ((shifts < self._shift) | (number > self._most))
        self._shift.copy_(torch.cumprod(too_many.long(), 0).sum())
        self._keep(code, channel, count, needed > self._shift)

    def _keep(self, code: Tensor, channel: Tensor, count: Tensor, starts: Tensor) -> None:
        """Make cells of what is sorted; starts: where they do."""
        aside = self._room + torch.arange(len(code), device=code.device) % _SPREAD
        to = torch.where(starts, torch.cumsum(starts, 0) - 1, aside)
        total = torch.cumsum(count, 0)
        before = torch.empty_like(self._code).copy_(total[-1].expand(len(self._code)))
        before.scatter_(0, to, total - count)
        before[self._room :].copy_(total[-1].expand(_SPREAD))
        self._count[:-1] = before[1:] - before[:-1]
        prefix = (code >> (2 * self._shift)) << (2 * self._shift)
        self._code.fill_(_NOBODY).scatter_(0, to, prefix)
        self._channel.fill_(self._channels).scatter_(0, to, channel)
        self._code[self._room :].fill_(_NOBODY)
        self._channel[self._room :].fill_(self._channels)
        self._count[self._room :].zero_()

    def on_host(self) -> tuple[int, list[I32], I64]:
        """Mantissa bits, and the names (channel, top, second) and counts of the cells."""
        code, channel, count = (x.cpu().numpy() for x in (self._code, self._channel, self._count))
        kept, shift = count > 0, int(self._shift)
        keys = [_gathered(code[kept] >> np.int64(bit)) >> np.int32(shift) for bit in (1, 0)]
        names, counts = fold_cells([channel[kept].astype(np.int32), *keys], [count[kept]])
        return EXACT - shift, names, counts[0]


def is_capturing(device: Any) -> bool:
    """Whether a CUDA graph is captured."""
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


def _channels_of_rows(shape: Sequence[int], along: int, channel_axis: int | None) -> tuple[int, int]:
    """How many channels there are, and how many rows in a row are of one; the rows in the order (outer, inner)."""
    if channel_axis is None:
        return 1, 1
    return shape[channel_axis], prod(shape[channel_axis + 1 :]) // (shape[along] if along > channel_axis else 1)


_MASKS = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)


def _spread(key: Tensor) -> Tensor:
    """The 32 bits of a key as the even ones of 64."""
    wide = key.to(torch.int64) & 0xFFFFFFFF
    for step, mask in _MASKS:
        wide = (wide | (wide << step)) & mask
    return wide


def _gathered(code: I64) -> I32:
    """The even ones of 64 bits: the inverse of `_spread`."""
    bits = code.astype(np.uint64)
    for step, mask in reversed(_MASKS):
        bits = bits & np.uint64(mask)
        bits = bits | (bits >> np.uint64(step))
    return (bits & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)


def _bit_length(word: Tensor) -> Tensor:
    """Of 64 bits, the place of the highest one, counted from 1; 0 where there is none."""
    high, low = (word >> 32) & 0xFFFFFFFF, word & 0xFFFFFFFF
    _, exponent = torch.frexp(torch.where(high > 0, high, low).to(torch.float64))
    return exponent.to(torch.int64) + torch.where(high > 0, 32, 0)
