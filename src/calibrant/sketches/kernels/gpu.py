"""The kernels of `reference` on tensors of torch: on a GPU by Triton, or on the CPU by Triton's interpreter.

What is counted and what it is counted into lie on one device, and nothing here waits for that device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import triton

from calibrant.sketches.cells import I64
from calibrant.sketches.kernels import gpu_portable as portable
from calibrant.sketches.kernels.gpu_state import State
from calibrant.sketches.layout import Layout

Tensor = Any  # torch.Tensor: torch brings no types that are checked here

TILE = 1024  # elements that a program looks at together, of four such tiles at once
LINE = 128  # bytes of the cache, which channels that take turns are to fill side by side
PROGRAMS = 512  # at most so many for one tensor, unless it has more channels: all at work at once
MOST_PARTS, MERGED = 2048, 1024  # of one group; and channels of all parts that are merged at once
PARTS_OF_MANY, LEAST_TILES = 256, 8  # of one group of many tensors; and tiles that are worth a program

FAST_BITS = 8  # mantissa bits of float32 for which `gpu_fast` has room in shared memory

log = logging.getLogger(__name__)

KINDS = {torch.float32: portable.FLOAT32, torch.bfloat16: portable.BFLOAT16, torch.float16: portable.FLOAT16}
SAME_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.float16}
_AS_INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def empty_state(groups: int, mantissa_bits: int | None, device: Any) -> State:
    """A state with as many heads as `gpu_fast` may want there. mantissa_bits: None for no tables."""
    device, programs = torch.device(device), groups
    if mantissa_bits is not None and device.type == "cuda":
        programs = max(_fast_programs(properties(device.index), kind, groups > 1) for kind in KINDS.values())
    return State(groups, mantissa_bits, max(programs // groups, 1), device)


class Room:
    """Memory for kernels to work in. What was given out stays valid: a captured graph may hold on to it."""

    def __init__(self, device: Any) -> None:
        self._device = torch.device(device)
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._read_by_graphs: list[Tensor] = []
        self.of(PROGRAMS, 16 * LINE // 2)

    def of(self, programs: int, words: int) -> tuple[Tensor, Tensor]:
        """Room of so many words for each program, and a zero for each, which they are to leave a zero."""
        if not self._kept or self._kept[-1][0].numel() < programs * words or self._kept[-1][1].numel() < programs:
            scratch = torch.empty(programs * words, dtype=torch.int64, device=self._device)
            self._kept.append((scratch, torch.zeros(programs, dtype=torch.int32, device=self._device)))
        return self._kept[-1]

    def described(self, words: I64) -> Tensor:
        """The words where kernels can read them; nothing waits for that."""
        host = torch.from_numpy(words)
        if self._device.type != "cuda":
            return host
        host = host.pin_memory()
        if torch.cuda.is_current_stream_capturing():
            self._read_by_graphs.append(host)  # which read the host's memory: less work than a copy at each replay
            return host
        return host.to(self._device, non_blocking=True)


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
    def whole(cls, size: int) -> Planes:
        """All elements as one group."""
        return cls(1, 1, size, 0, 0, 1)

    @classmethod
    def of(cls, layout: Layout, size: int) -> Planes:
        """The groups of a contiguous tensor: its channels."""
        groups, inner = layout.channels, layout.inner
        if groups == 1:
            return cls.whole(size)
        if layout.lanes == groups:
            return cls(groups, 1, size // groups, 0, 1, groups)
        return cls(groups, size // (groups * inner), inner, groups * inner, inner, 1)


Grouped = tuple[Tensor, Planes, State]  # a tensor, its groups, and the state they are counted into


def count(x: Tensor, planes: Planes, state: State, half: Tensor, room: Room) -> None:
    """Count x, contiguous and of float32, float16 or bfloat16, into half number `half[0]` (int32) of the state."""
    mantissa_bits = state.mantissa_bits
    if mantissa_bits is not None and planes.step > 1:
        # Channels that take turns are brought in order first: a copy costs far less than adding to scattered tables.
        x, inner = _transposed(x, planes.inner, planes.groups), planes.inner
        planes = Planes(planes.groups, 1, inner, inner, inner, 1)
    if mantissa_bits is not None and _is_for_fast(x, planes, mantissa_bits) and _fast_works(x.device, x.dtype):
        _count_fast(x, planes, state, half)
    else:
        _count_portable(x, planes, state, half, room)


def count_many(tensors: Sequence[Tensor], states: Sequence[State], half: Tensor, room: Room) -> None:
    """Count each tensor as one group into its state, whose tables are alike. Tensors of one type take one launch if
    possible."""
    if (
        len(tensors) > 1
        and len({x.dtype for x in tensors}) == 1
        and all(_may_be_described(x, states[0].mantissa_bits) for x in tensors)
    ):
        _count_described(tensors, states, half, room)
        return
    for x, state in zip(tensors, states, strict=True):
        count(x, Planes.whole(x.numel()), state, half, room)


def _transposed(x: Tensor, rows: int, columns: int) -> Tensor:
    """The memory of x (rows, columns), as (columns, rows)."""
    out, tile = torch.empty(columns * rows, dtype=x.dtype, device=x.device), 64
    bits = _AS_INTEGERS[x.dtype]
    programs = -(-rows // tile) * -(-columns // tile)
    portable.transpose[(programs,)](x.view(bits), out.view(bits), rows, columns, TILE=tile, num_warps=8)
    return out


def count_ends(tensors: Sequence[Grouped], half: Tensor, room: Room) -> None:
    """Count the extremes and sizes of the groups of each tensor alone; else as `count`. Tensors that look alike take
    one launch."""
    alike: dict[tuple[Any, ...], list[Grouped]] = {}
    for x, planes, state in tensors:
        rows, columns = _shape_of_tiles(planes, x.element_size())
        if x.numel() >= 1 << 31:
            _count_portable(x, planes, state, half, room, totals=False)
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
            KIND=KINDS[dtype],
            LAST=last,
            ALIGNED=aligned,
            ROWS=rows,
            COLUMNS=columns,
            PARTS=min(MERGED // columns, PARTS_OF_MANY),
            num_warps=4,
            maxnreg=96,
        )


def _described_parts(tensors: Sequence[Grouped], rows: int, columns: int) -> I64:
    """For each program of `gpu_portable.count_ends` what it counts: about the same for all, if there is enough."""
    blocks = [-(-planes.groups // columns) for _, planes, _ in tensors]
    tiles = [-(-planes.inner // rows) * planes.outer for _, planes, _ in tensors]
    share = max(-(-sum(b * t for b, t in zip(blocks, tiles, strict=True)) // PROGRAMS), LEAST_TILES)
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
        KIND=KINDS[x.dtype],
        TOTALS=totals,
        TABLE=state.mantissa_bits is not None,
        BITS=state.mantissa_bits or 0,
        ROWS=rows,
        COLUMNS=columns,
        PARTS=min(triton.next_power_of_2(parts), MERGED // columns),
        WIDE=tiles >= 1 << 30 or tiles // parts >= 1 << 20,
        num_warps=4,
    )


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


def _is_for_fast(x: Tensor, planes: Planes, mantissa_bits: int) -> bool:
    """Whether `gpu_fast` has a kernel for this: of what it lacks, shared memory is too small for more bits."""
    enough = x.dtype != torch.float32 or mantissa_bits <= FAST_BITS
    return x.is_cuda and enough and planes.step == 1 and (planes.groups == 1 or planes.inner * planes.outer < 1 << 31)


def _count_fast(x: Tensor, planes: Planes, state: State, half: Tensor) -> None:
    from calibrant.sketches.kernels import gpu_fast as fast

    device, length = properties(x.device.index), planes.outer * planes.inner
    vector, many = 16 // x.element_size(), planes.groups > 1
    magic, shift = 0, 0
    if many and (planes.inner % vector or planes.inner == vector):
        vector = 1
    if many:
        magic, shift = fast.division(planes.inner // vector)
    kind = KINDS[x.dtype]
    warps, elements, registers = portable.SHAPES[kind, many]
    parts = max(min(-(-length // (32 * warps * elements)), _fast_programs(device, kind, many) // planes.groups), 1)
    fast.count[(planes.groups * parts,)](
        x.view(_AS_INTEGERS[x.dtype]),
        length,
        magic,
        shift,
        (planes.plane - planes.inner) // vector,
        planes.beside // vector,
        planes.groups,
        parts,
        state.memory,
        state.rows,
        half,
        PLANES=many,
        K=fast.kernel(kind, state.mantissa_bits, many, vector, device.shared_bytes),
        num_warps=warps,
        maxnreg=registers,
    )


def _fast_programs(device: Properties, kind: int, many: bool) -> int:
    """That are at work at once, of which each counts one group."""
    warps, _, registers = portable.SHAPES[kind, many]
    return device.multiprocessors * (2048 // (warps * registers))


def _may_be_described(x: Tensor, mantissa_bits: int | None) -> bool:
    return (
        mantissa_bits is not None
        and _is_for_fast(x, Planes.whole(x.numel()), mantissa_bits)
        and x.data_ptr() % 16 == 0
        and _fast_works(x.device, x.dtype)
    )


def _count_described(tensors: Sequence[Tensor], states: Sequence[State], half: Tensor, room: Room) -> None:
    from calibrant.sketches.kernels import gpu_fast as fast

    device = properties(tensors[0].device.index)
    first, kind, mantissa_bits = tensors[0], KINDS[tensors[0].dtype], states[0].mantissa_bits
    warps, elements, registers = portable.SHAPES[kind, False]
    tiles = [-(-x.numel() // (32 * warps * elements)) for x in tensors]
    share = _share(tiles, max(device.multiprocessors, len(tensors)))
    described = []
    for x, state, own in zip(tensors, states, tiles, strict=True):
        parts = -(-own // share)
        same = [x.data_ptr(), x.numel(), state.memory.data_ptr()]
        described += [[*same, part, parts, state.rows, 0, 0] for part in range(parts)]
    fast.count_many[(len(described),)](
        room.described(np.array(described)),
        half,
        K=fast.kernel(kind, mantissa_bits, False, 16 // first.element_size(), device.shared_bytes),
        num_warps=warps,
        maxnreg=registers,
    )


def _share(tiles: Sequence[int], programs: int) -> int:
    """The fewest tiles for each program such that so many programs suffice, each at work on one tensor."""
    least, most = 1, max(tiles)
    while least < most:
        middle = (least + most) // 2
        if sum(-(-own // middle) for own in tiles) <= programs:
            most = middle
        else:
            least = middle + 1
    return least


@dataclass(frozen=True, slots=True)
class Properties:
    """Of a GPU; shared_bytes: that one program may have."""

    multiprocessors: int
    shared_bytes: int


@cache
def properties(index: int) -> Properties:
    """Of the GPU of that number."""
    found = torch.cuda.get_device_properties(index)
    return Properties(found.multi_processor_count, found.shared_memory_per_block_optin)


@cache
def _fast_works(device: Any, dtype: Any) -> bool:
    """Whether `gpu_fast` can be compiled here and counts as `gpu_portable` does, tried once; if not, that is logged."""
    try:
        wrong = _differs(device, dtype)
    except Exception as error:  # whatever another version of Triton or another driver raises
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        log.warning(
            "%s: the portable kernels count %s, slowly, since the fast ones do not work: %s", device, dtype, wrong
        )
    return not wrong


def _differs(device: Any, dtype: Any) -> str:
    """How the two differ on one tensor; empty if they do not."""
    random = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (50_001,), generator=random, dtype=torch.int64).to(torch.int32)
    values = torch.cat([bits.view(torch.float32), torch.randn(50_001, generator=random)]).to(dtype).to(device)
    half = torch.ones(1, dtype=torch.int32, device=device)
    states = [empty_state(1, 8, device) for _ in range(2)]
    whole = Planes.whole(values.numel())
    _count_fast(values, whole, states[0], half)
    _count_portable(values, whole, states[1], half, Room(device))
    fast, portable_ones = (state.read(1) for state in states)
    alike = all(np.array_equal(*both) for both in zip(fast, portable_ones, strict=True))
    return "" if alike else "they count something else"
