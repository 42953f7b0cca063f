"""What the kernels for GPUs count into, and how the host reads it."""

from __future__ import annotations

from typing import Any

import torch

from calibrant.sketches.cells import I64, Cells
from calibrant.sketches.kernels.gpu_portable import (
    COUNT_BITS,
    ENDS,
    FIELDS,
    GROWN,
    HIGH,
    LOW,
    UNIT_BITS,
    ZEROS,
)
from calibrant.sketches.kernels.reference import NONE_HI, NONE_LO

Tensor = Any  # torch.Tensor
LOOKED_AT = 1 << 24  # words of tables at once: what is made of them takes a fraction of their 128 MiB


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

    def read(self, half: int) -> tuple[I64, Cells]:
        """Of one half, on the host: one head for each group (groups, FIELDS), and the cells of the tables that are not
        empty, with the zeros: (group, keys), (counts, positions), sorted. Waits for the device."""
        heads = self.memory[half, :, : FIELDS * self.rows].unflatten(1, (self.rows, FIELDS))
        ends = heads[..., :ENDS].amax(dim=1)
        hits = torch.where(heads[..., :ENDS] == ends[:, None], heads[..., ENDS:], 0).sum(dim=1)
        hits[:, GROWN - ENDS] = 0
        names, weights = _cells(self.memory[half, :, FIELDS * self.rows :], hits[:, ZEROS - ENDS])
        return torch.cat([ends, hits], dim=1).cpu().numpy(), (list(names.cpu().numpy()), list(weights.cpu().numpy()))


def _cells(tables: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor]:
    """What cells are not empty in tables (groups, words), and how often: int32 (2, cells), int64 (2, cells).

    zeros: (groups,), which the kernels keep out of the tables."""
    names, weights = [tables.new_empty((2, 0), dtype=torch.int32)], [tables.new_empty((2, 0))]
    groups, words = tables.shape
    positive = words // 4  # cells of either sign
    step = max(LOOKED_AT // max(words, 1), 1)
    for start in range(0, groups if words else 0, step):
        part, zero = tables[start : start + step].unflatten(1, (2, 2 * positive)), zeros[start : start + step]
        held = part.any(dim=1)
        held[:, 0] |= zero > 0
        group, place = torch.cat([held[:, positive:].flip(1), held[:, :positive]], dim=1).nonzero(as_tuple=True)
        key = place - positive
        index = torch.where(key < 0, positive - 1 - key, key)
        counts, positions = _apart(part[group, 0, index], part[group, 1, index])
        names.append(torch.stack([group + start, key]).to(torch.int32))
        weights.append(torch.stack([counts + torch.where(key == 0, zero[group], 0), positions]))
    return torch.cat(names, dim=1), torch.cat(weights, dim=1)


def _apart(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and sums of positions, from the words of cells."""
    counts = (first & ((1 << COUNT_BITS) - 1)) + ((second & 0xFFFFFFFF) << UNIT_BITS)
    sums = (first >> COUNT_BITS) & ((1 << (64 - COUNT_BITS)) - 1)
    return counts, sums + (second >> 32 << (UNIT_BITS + 8))
