"""What the kernels for GPUs count into, and how the host reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from calibrant.sketches.cells import I64
from calibrant.sketches.kernels.gpu_portable import COUNT_BITS, ENDS, FIELDS, GROWN, HIGH, LOW, UNIT_BITS
from calibrant.sketches.kernels.reference import NONE_HI, NONE_LO


class State:
    """A state of nothing, on one device: `memory`, int64 (2 halves, groups, words).

    Of each group there are `rows` heads of FIELDS words, of which as many programs may each keep one: only who reads
    brings them together. Then, unless mantissa_bits is None, a table: see `gpu_portable`.
    """

    def __init__(self, groups: int, mantissa_bits: int | None, rows: int, device: Any) -> None:
        self.mantissa_bits, self.rows = mantissa_bits, rows
        words = FIELDS * rows + (0 if mantissa_bits is None else 2 << (9 + mantissa_bits))
        self.memory = torch.zeros((2, groups, words), dtype=torch.int64, device=device)
        self.clear()

    def clear(self) -> None:
        """Make it a state of nothing again."""
        self.memory.zero_()
        heads = self.memory[..., : FIELDS * self.rows].unflatten(-1, (self.rows, FIELDS))
        heads[..., LOW].fill_(-NONE_LO)
        heads[..., HIGH].fill_(NONE_HI)

    def read(self, half: int) -> tuple[I64, I64]:
        """Of one half, on the host, for each group: one head (groups, FIELDS); and the table (groups, 2, cells), where
        there is none of no cells. Waits for the device."""
        words = self.memory[half].to("cpu", copy=True).numpy()
        heads = words[:, : FIELDS * self.rows].reshape(len(words), self.rows, FIELDS)
        ends = heads[..., :ENDS].max(axis=1)
        counts = np.where(heads[..., :ENDS] == ends[:, None], heads[..., ENDS:], 0).sum(axis=1)
        counts[:, GROWN - ENDS] = 0
        table = words[:, FIELDS * self.rows :]
        table = table.reshape(len(words), 2, table.shape[1] // 2)
        _take_apart(table)
        return np.concatenate([ends, counts], axis=1), table


def _take_apart(table: I64) -> None:
    """In place, make counts and sums of the words of cells (groups, 2, cells)."""
    first, second = table[:, 0], table[:, 1]
    counts = (second & 0xFFFFFFFF) << UNIT_BITS
    second >>= 32
    second <<= UNIT_BITS + 8
    second += (first >> COUNT_BITS) & ((1 << (64 - COUNT_BITS)) - 1)
    first &= (1 << COUNT_BITS) - 1
    first += counts
