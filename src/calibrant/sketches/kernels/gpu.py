"""The kernels of `reference` on tensors of torch: on a GPU by Triton, or on the CPU by Triton's interpreter.

What is counted and what it is counted into lie on one device, and nothing here waits for that device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray

from calibrant.sketches.cells import I64
from calibrant.sketches.kernels import gpu_nvidia as nvidia
from calibrant.sketches.kernels import gpu_portable as portable
from calibrant.sketches.kernels import gpu_words
from calibrant.sketches.kernels.gpu_planes import Planes
from calibrant.sketches.kernels.gpu_read import read
from calibrant.sketches.kernels.gpu_room import PROGRAMS, Room
from calibrant.sketches.kernels.gpu_state import State

Tensor = Any  # torch.Tensor: torch brings no types that are checked here

TILE = 1024  # elements that a program looks at together, of four such tiles at once
LINE = 128  # bytes of the cache, which channels that take turns are to fill side by side
MOST_PARTS, MERGED = 2048, 512  # of one group; and channels of all parts that are merged at once
PARTS_OF_MANY, LEAST_TILES = 256, 8  # of one group of many tensors; and tiles that are worth a program
MOST_TILES = 1 << 22  # of a program: it counts in float32

log = logging.getLogger(__name__)

SAME_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.float16}


def empty_state(groups: int, mantissa_bits: int | None, device: Any) -> State:
    """A state with as many heads as its kernels may want. mantissa_bits: None for no tables."""
    device = torch.device(device)
    fast = mantissa_bits is not None and device.type == "cuda"
    return State(groups, mantissa_bits, nvidia.heads(groups, device) if fast else 1, device)


Grouped = tuple[Tensor, Planes, State]  # a tensor, its groups, and the state they are counted into


def count(x: Tensor, planes: Planes, state: State, half: Tensor, room: Room) -> None:
    """Count x, contiguous and of float32, float16 or bfloat16, into half number `half[0]` (int32) of the state."""
    bits = state.mantissa_bits
    last = nvidia.is_for_last(x, planes, bits) and _fast_works(x.device, x.dtype, last=True)
    fast = not last and nvidia.is_for_fast(x, planes, bits) and _fast_works(x.device, x.dtype)
    long = planes.groups == 1 and (fast or bits is None)
    for piece, own in _pieces(x, planes, nvidia.MOST if long else gpu_words.MOST_OF_EACH):
        if last:
            nvidia.count_last(piece, own, state, half, room)
        elif fast:
            nvidia.count_fast(piece, own, state, half)
        else:
            _count_portable(piece, own, state, half, room)


def _pieces(x: Tensor, planes: Planes, most: int) -> Iterator[tuple[Tensor, Planes]]:
    """x in pieces of at most so many elements of each group."""
    if planes.outer * planes.inner <= most:
        yield x, planes
        return
    memory = x.view(-1)
    for start, own in planes.pieces(most):
        yield memory[start:], own


def count_many(tensors: Sequence[Tensor], states: Sequence[State], half: Tensor, room: Room) -> None:
    """Count each tensor as one group into its state, whose tables are alike. Tensors of one type take one launch if
    possible."""
    if (
        len(tensors) > 1
        and len({x.dtype for x in tensors}) == 1
        and sum(x.numel() for x in tensors) <= nvidia.MOST
        and all(_may_be_described(x, states[0].mantissa_bits) for x in tensors)
    ):
        nvidia.count_described(tensors, states, half, room)
        return
    for x, state in zip(tensors, states, strict=True):
        count(x, Planes.whole(x.numel()), state, half, room)


def count_ends(tensors: Sequence[Grouped], half: Tensor, room: Room) -> None:
    """Count the extremes and sizes of the groups of each tensor alone; else as `count`. Tensors that look alike take
    one launch."""
    alike: dict[tuple[Any, ...], list[Grouped]] = {}
    for x, planes, state in tensors:
        rows, columns = _shape_of_tiles(planes, x.element_size())
        if x.numel() >= 1 << 31:
            for piece, own in _pieces(x, planes, gpu_words.MOST_OF_EACH):
                _count_portable(piece, own, state, half, room, totals=False)
            continue
        last, each = planes.step > 1, 16 // x.element_size()
        aligned = x.data_ptr() % 16 == 0 and (planes.groups if last else planes.inner) % each == 0
        alike.setdefault((x.dtype, last, aligned, rows, columns), []).append((x, planes, state))
    for (dtype, last, aligned, rows, columns), some in alike.items():
        described = _described_parts(some, rows, columns)
        portable.count_ends[(len(described),)](
            room.described(described),
            half,
            *room.of(len(described), 16 * columns),
            KIND=nvidia.KINDS[dtype],
            LAST=last,
            ALIGNED=aligned,
            ROWS=rows,
            COLUMNS=columns,
            PARTS=min(MERGED // columns, PARTS_OF_MANY),
            num_warps=4,
            **_registers(96),
        )


def _described_parts(tensors: Sequence[Grouped], rows: int, columns: int) -> I64:
    """For each program of `gpu_portable.count_ends` what it counts: about the same for all, if there is enough."""
    blocks = [-(-planes.groups // columns) for _, planes, _ in tensors]
    tiles = [-(-planes.inner // rows) * planes.outer for _, planes, _ in tensors]
    share = -(-sum(b * t for b, t in zip(blocks, tiles, strict=True)) // PROGRAMS)
    share = min(max(share, LEAST_TILES), MOST_TILES)
    found = []
    for (x, planes, state), own_blocks, own_tiles in zip(tensors, blocks, tiles, strict=True):
        parts = min(-(-own_tiles // share), PARTS_OF_MANY)
        block, part = np.divmod(np.arange(own_blocks * parts), parts)
        same = [x.data_ptr(), state.memory.data_ptr(), planes.outer, planes.inner, planes.groups, planes.plane]
        columns_of_same = [np.full(len(block), word) for word in same]
        found.append(np.stack([*columns_of_same, block, part, np.full(len(block), parts)], axis=1))
    return np.concatenate(found).astype(np.int64)


def _count_portable(
    x: Tensor,
    planes: Planes,
    state: State,
    half: Tensor,
    room: Room,
    totals: bool = True,
) -> None:
    rows, columns = _shape_of_tiles(planes, x.element_size())
    blocks, tiles = -(-planes.groups // columns), -(-planes.inner // rows) * planes.outer
    table = state.mantissa_bits is not None
    parts = max(min(tiles, PROGRAMS // blocks, MOST_PARTS // columns), 1)
    portable.count[(blocks * parts,)](
        x.view(SAME_BITS[x.dtype]),
        planes.outer,
        planes.inner,
        planes.plane,
        planes.beside,
        planes.step,
        planes.groups,
        parts,
        state.memory,
        state.rows,
        half,
        *room.of(blocks * parts, 16 * columns),
        KIND=nvidia.KINDS[x.dtype],
        TOTALS=totals,
        TABLE=table,
        BITS=state.mantissa_bits or 0,
        ROWS=rows,
        COLUMNS=columns,
        PARTS=min(triton.next_power_of_2(parts), MERGED // columns),
        **({"num_warps": 4} if table else {"num_warps": 8} | _registers(64)),
    )


def _registers(most: int) -> dict[str, int]:
    """The option that a thread has so many at most: AMD's compiler does not know it."""
    return {} if torch.version.hip else {"maxnreg": most}


def _shape_of_tiles(planes: Planes, bytes_each: int) -> tuple[int, int]:
    """Rows and columns of a tile: of those whose rows are lines of the cache, one that overhangs a plane least."""
    if planes.step > 1:
        columns = LINE // bytes_each
        return TILE // columns, columns
    most = triton.next_power_of_2(planes.groups)
    shapes = [(rows, TILE // rows) for rows in (1024, 512, 256, 128, 64)]
    fitting = [(rows, columns) for rows, columns in shapes if columns <= most] or shapes[:1]

    def covered(shape: tuple[int, int]) -> int:
        rows, columns = shape
        return -(-planes.inner // rows) * rows * -(-planes.groups // columns) * columns

    return min(fitting, key=covered)


def _may_be_described(x: Tensor, mantissa_bits: int | None) -> bool:
    return (
        nvidia.is_for_fast(x, Planes.whole(x.numel()), mantissa_bits)
        and x.data_ptr() % 16 == 0
        and _fast_works(x.device, x.dtype)
    )


@cache
def _fast_works(device: Any, dtype: Any, last: bool = False) -> bool:
    """Whether `gpu_fast`, or `gpu_last`, can be compiled here and counts as `gpu_portable` does, tried once; if not,
    that is logged."""
    try:
        wrong = _differs(device, dtype, last)
    except Exception as error:  # whatever another version of Triton or another driver raises
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        log.warning(
            "%s: the portable kernels count %s, slowly, since the fast ones do not work: %s", device, dtype, wrong
        )
    return not wrong


def _differs(device: Any, dtype: Any, last: bool) -> str:
    """How the two differ on one tensor; empty if they do not."""
    random = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (50_004,), generator=random, dtype=torch.int64).to(torch.int32)
    values = torch.cat([bits.view(torch.float32), torch.randn(50_004, generator=random)]).to(dtype).to(device)
    half = torch.ones(1, dtype=torch.int32, device=device)
    planes = Planes(8, 1, values.numel() // 8, 0, 1, 8) if last else Planes.whole(values.numel())
    states = [empty_state(planes.groups, 6 if last else 8, device) for _ in range(2)]
    room = Room(device)
    if last:
        nvidia.count_last(values, planes, states[0], half, room)
    else:
        nvidia.count_fast(values, planes, states[0], half)
    _count_portable(values, planes, states[1], half, room)
    found: list[list[NDArray[Any]]] = []
    for heads, (names, weights) in read(states, 1):
        found.append([heads, *names, *weights])
    alike = all(np.array_equal(*both) for both in zip(*found, strict=True))
    return "" if alike else "they count something else"
