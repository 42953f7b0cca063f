"""The kernels of `reference` on tensors of torch: on a GPU by Triton, or on the CPU by Triton's interpreter.

What is counted and what it is counted into lie on one device, and nothing here waits for that device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton

from calibrant.sketches.kernels import gpu_portable as portable
from calibrant.sketches.kernels.gpu_portable import FIELDS, HI, LO
from calibrant.sketches.kernels.reference import NONE_HI, NONE_LO
from calibrant.sketches.layout import Layout

Tensor = Any  # torch.Tensor: torch brings no types that are checked here

TILE = 4096  # elements that a program looks at together
SIDE_BY_SIDE = 32  # channels of a tile where they take turns in memory: together as wide as a line of the cache
PROGRAMS = 1024  # at most so many for one tensor, unless it has more channels
MOST_PARTS = 1024  # of one group

_KINDS = {torch.float32: portable.FLOAT32, torch.bfloat16: portable.BFLOAT16, torch.float16: portable.FLOAT16}
_SAME_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.float16}


def empty_state(groups: int, mantissa_bits: int | None, device: Any) -> Tensor:
    """What the kernels count into: int64 (2 halves, groups, words). mantissa_bits: None for no tables."""
    words = FIELDS + (0 if mantissa_bits is None else 2 << (9 + mantissa_bits))
    state = torch.zeros((2, groups, words), dtype=torch.int64, device=device)
    clear(state)
    return state


def clear(state: Tensor) -> None:
    """Make it a state of nothing again."""
    state.zero_()
    state[..., LO], state[..., HI] = NONE_LO, NONE_HI


class Room:
    """Memory for kernels to work in. What was given out stays valid: a captured graph may hold on to it."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.of(PROGRAMS, 8 * SIDE_BY_SIDE)

    def of(self, programs: int, words: int) -> tuple[Tensor, Tensor]:
        """Room of so many words for each program, and a zero for each, which they are to leave a zero."""
        if not self._kept or self._kept[-1][0].numel() < programs * words or self._kept[-1][1].numel() < programs:
            scratch = torch.empty(programs * words, dtype=torch.int64, device=self._device)
            self._kept.append((scratch, torch.zeros(programs, dtype=torch.int32, device=self._device)))
        return self._kept[-1]


@dataclass(frozen=True, slots=True)
class Planes:
    """How a tensor's elements are those of its groups: see `gpu_portable`."""

    groups: int
    outer: int
    inner: int
    plane: int
    beside: int
    step: int

    @classmethod
    def of(cls, layout: Layout, size: int) -> Planes:
        """The groups of a contiguous tensor: its channels."""
        groups, inner = layout.channels, layout.inner
        if groups == 1:
            return cls(1, 1, size, 0, 0, 1)
        if layout.lanes == groups:
            return cls(groups, 1, size // groups, 0, 1, groups)
        return cls(groups, size // (groups * inner), inner, groups * inner, inner, 1)


def count(x: Tensor, planes: Planes, state: Tensor, mantissa_bits: int | None, half: Tensor, room: Room) -> None:
    """Count x, contiguous and of float32, float16 or bfloat16, into half number `half[0]` (int32) of the state."""
    if planes.step == 1:
        rows = min(TILE, triton.next_power_of_2(planes.inner))
        columns = min(TILE // rows, triton.next_power_of_2(planes.groups))
    else:
        columns = SIDE_BY_SIDE
        rows = TILE // columns
    blocks = -(-planes.groups // columns)
    tiles = -(-planes.inner // rows) * planes.outer
    parts = max(min(tiles, PROGRAMS // blocks, MOST_PARTS // columns), 1)
    portable.count[(blocks * parts,)](
        x.view(_SAME_BITS[x.dtype]),
        planes.outer,
        planes.inner,
        planes.plane,
        planes.beside,
        planes.step,
        planes.groups,
        parts,
        state,
        half,
        *room.of(blocks * parts, 8 * columns),
        KIND=_KINDS[x.dtype],
        TABLE=mantissa_bits is not None,
        BITS=mantissa_bits or 0,
        ROWS=rows,
        COLUMNS=columns,
        PARTS=triton.next_power_of_2(parts),
        num_warps=8,
    )


def top_two(
    x: Tensor, channels: int, channel_stride: int, codes: Tensor, groups: Tensor, cursor: Tensor, half: Tensor
) -> None:
    """The two largest of each row of x (outer, length, inner), contiguous: see `gpu_portable.top_two`."""
    outer, length, inner = x.shape
    if inner == 1:
        columns = min(TILE, triton.next_power_of_2(length))
        rows, along, lines = TILE // columns, 1, TILE // columns
    else:
        columns = lines = min(SIDE_BY_SIDE * 4, triton.next_power_of_2(outer * inner))
        rows, along = min(TILE // columns, triton.next_power_of_2(length)), 0
    portable.top_two[(-(-outer * inner // lines),)](
        x.view(_SAME_BITS[x.dtype]),
        outer * inner,
        length,
        inner,
        channels,
        channel_stride,
        codes,
        groups,
        cursor,
        half,
        codes.numel(),
        KIND=_KINDS[x.dtype],
        ALONG=along,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=8,
    )
