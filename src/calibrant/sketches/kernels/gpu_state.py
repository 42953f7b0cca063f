"""What the kernels for GPUs count into."""

from __future__ import annotations

from typing import Any

import torch

from calibrant.sketches.kernels.gpu_words import FIELDS, HIGH, LOW
from calibrant.sketches.kernels.reference import NONE_HI, NONE_LO


class State:
    """A state of nothing, on one device: `memory`, int64 (2 halves, groups, words).

    Of each group there are `rows` heads of FIELDS words, of which as many programs may each keep one: only who reads
    brings them together. Then, unless mantissa_bits is None, a table: see `gpu_words`.
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
