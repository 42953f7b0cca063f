"""Launches of `gpu_fast` and `gpu_last`, NVIDIA's own kernels: what they can count, in how many programs, and into how
many heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from calibrant.sketches.kernels import gpu_words
from calibrant.sketches.kernels.gpu_planes import Planes
from calibrant.sketches.kernels.gpu_room import Room
from calibrant.sketches.kernels.gpu_state import State

Tensor = Any  # torch.Tensor: torch brings no types that are checked here

FAST_BITS = 8  # mantissa bits of float32 for which `gpu_fast` has room in shared memory
LAST_BITS = range(2, 9)  # mantissa bits for which `gpu_last` has a kernel
LAST_CHANNELS, LAST_PARTS = 32, 16  # that one of its programs may count; and parts of a tensor with a head, at least
MOST, LEAST_PROGRAMS = 1 << 28, 16  # of one group, elements at once: so that sums of a program's have room in 32 bits
ROWS_TO_START = 10_000  # that a program of it could have counted until it begins, and while it ends

KINDS = {torch.float32: gpu_words.FLOAT32, torch.bfloat16: gpu_words.BFLOAT16, torch.float16: gpu_words.FLOAT16}
_AS_INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def heads(groups: int, device: Any) -> int:
    """How many of each group these kernels may want."""
    card, many = properties(device.index), groups > 1
    fast = max(_fast_programs(card, kind, many) for kind in KINDS.values()) // groups
    last = max(LAST_PARTS, min(card.multiprocessors * LAST_CHANNELS // groups, card.multiprocessors)) if many else 1
    return max(fast, last, 1)


def is_for_fast(x: Tensor, planes: Planes, mantissa_bits: int | None) -> bool:
    """Whether `gpu_fast` has a kernel for this; shared memory has no room for more bits, nor a small GPU for sums."""
    if not x.is_cuda or mantissa_bits is None or (x.dtype == torch.float32 and mantissa_bits > FAST_BITS):
        return False
    return planes.step == 1 and (planes.groups > 1 or properties(x.device.index).multiprocessors >= LEAST_PROGRAMS)


def is_for_last(x: Tensor, planes: Planes, mantissa_bits: int | None) -> bool:
    """Whether `gpu_last` has a kernel for this."""
    return x.is_cuda and planes.step > 1 and mantissa_bits in LAST_BITS and planes.groups < 1 << 18


def count_last(x: Tensor, planes: Planes, state: State, half: Tensor, room: Room) -> None:
    """Count channels that take turns in memory."""
    from calibrant.sketches.kernels import gpu_last as last
    from calibrant.sketches.kernels import gpu_last_kernel

    device, kind = properties(x.device.index), KINDS[x.dtype]
    kernel = gpu_last_kernel.kernel(kind, state.mantissa_bits, device.shared_bytes)
    blocks = -(-planes.groups // kernel.value.channels)
    parts = _parts(blocks, planes.inner, device.multiprocessors, state.rows)
    # Two parts of a block add up as one if all programs are at work at once: else there would be no end of scratch.
    together = 2 if parts % 2 == 0 and blocks * parts <= device.multiprocessors else 1
    bits = x.view(_AS_INTEGERS[x.dtype])
    aligned = planes.groups * x.element_size() % 16 == 0 and x.data_ptr() % 16 == 0
    last.count[(blocks * parts,)](
        bits,
        gpu_last_kernel.described(bits, planes.inner, planes.groups, kernel.value) if aligned else bits,
        planes.inner,
        planes.groups,
        parts,
        together,
        state.memory,
        state.rows,
        half,
        *room.of(blocks * parts if together == 2 else 1, kernel.value.misc // 2),
        ALIGNED=aligned,
        K=kernel,
        num_warps=gpu_last_kernel.WARPS,
        maxnreg=gpu_last_kernel.REGISTERS,
    )


def _parts(blocks: int, rows: int, programs: int, most: int) -> int:
    """In how many parts each block is done soonest, if so many programs are at work at once."""
    return min(range(1, most + 1), key=lambda parts: -(-blocks * parts // programs) * (rows / parts + ROWS_TO_START))


def count_fast(x: Tensor, planes: Planes, state: State, half: Tensor) -> None:
    """Count one group, or channels of which each is in stretches."""
    from calibrant.sketches.kernels import gpu_fast as fast
    from calibrant.sketches.kernels import gpu_fast_kernel

    device, length = properties(x.device.index), planes.outer * planes.inner
    vector, many = 16 // x.element_size(), planes.groups > 1
    magic, shift = 0, 0
    if many and (planes.inner % vector or planes.inner == vector):
        vector = 1
    if many:
        magic, shift = gpu_fast_kernel.division(planes.inner // vector)
    kind = KINDS[x.dtype]
    warps, elements, registers = gpu_words.SHAPES[kind, many]
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
        K=gpu_fast_kernel.kernel(kind, state.mantissa_bits, many, vector, device.shared_bytes, device.waits),
        num_warps=warps,
        maxnreg=registers,
        launch_pdl=device.waits,
    )


def _fast_programs(device: Properties, kind: int, many: bool) -> int:
    """That are at work at once, of which each counts one group."""
    warps, _, registers = gpu_words.SHAPES[kind, many]
    return device.multiprocessors * (2048 // (warps * registers))


def count_described(tensors: Sequence[Tensor], states: Sequence[State], half: Tensor, room: Room) -> None:
    """Count each tensor as one group, all in one launch."""
    from calibrant.sketches.kernels import gpu_fast as fast
    from calibrant.sketches.kernels import gpu_fast_kernel

    device = properties(tensors[0].device.index)
    first, kind, mantissa_bits = tensors[0], KINDS[tensors[0].dtype], states[0].mantissa_bits
    warps, elements, registers = gpu_words.SHAPES[kind, False]
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
        K=gpu_fast_kernel.kernel(
            kind, mantissa_bits, False, 16 // first.element_size(), device.shared_bytes, device.waits
        ),
        num_warps=warps,
        maxnreg=registers,
        launch_pdl=device.waits,
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
    """Of a GPU; shared_bytes: that one program may have; waits: whether a kernel may be launched before what comes
    before it is through, for which it waits then."""

    multiprocessors: int
    shared_bytes: int
    waits: bool


@cache
def properties(index: int) -> Properties:
    """Of the GPU of that number."""
    found = torch.cuda.get_device_properties(index)
    return Properties(found.multi_processor_count, found.shared_memory_per_block_optin, found.major >= 9)
