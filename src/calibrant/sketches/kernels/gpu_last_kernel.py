"""The constants of a kernel of `gpu_last`: how it uses shared memory, and its assembly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from calibrant.sketches.kernels import gpu_last_count, gpu_last_flush, gpu_last_layout, gpu_words
from calibrant.sketches.kernels import gpu_last_ptx as ptx

WARPS, REGISTERS = 16, 128
ELEMENTS = {gpu_words.FLOAT32: 8, gpu_words.BFLOAT16: 32, gpu_words.FLOAT16: 32}  # of a thread at once
SLOTS = {gpu_words.FLOAT32: 2, gpu_words.BFLOAT16: 1, gpu_words.FLOAT16: 1}  # of a warp, for what it counts next: 2**n
SECTOR, MOST_CHANNELS = 32, 32  # bytes of the cache that are read together; and channels of a program
LEAST_OCTAVES = 22  # that heavy tails need
PATIENCE = 50  # looks for the other program, of which each takes about a microsecond
REDUCTIONS = 64  # bytes for each channel that Triton needs for them


@dataclass(frozen=True)
class Kernel:
    """The constants of a compiled kernel."""

    kind: int
    warps: int
    elements: int
    vector: int
    channels: int
    rows: int
    octaves: int
    own_bits: int
    misc: int
    buffers: int
    limit: int
    table: int
    patience: int
    begin: str
    place: str
    fetch_first: str
    count_next: str
    asm: str
    constraints: str
    again: str
    check: str
    forget: str
    start_anew: str
    flush: str
    leave: str
    flush_both: str
    park: str


def described(x: Any, rows: int, channels: int, kernel: Kernel) -> TensorDescriptor:
    """What describes x (rows, channels) to the tensor memory accelerator, which brings each warp its part of a tile."""
    shape, box = [rows, channels], [kernel.rows // kernel.warps, kernel.channels]
    plain = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=8 * x.element_size(), rank=2)
    return TensorDescriptor(x, shape, [channels, 1], box, plain)


def shared_memory_of(kind: int, bits: int, shared_bytes: int) -> gpu_last_layout.Shared:
    """For tables of so many mantissa bits, in so much shared memory: as many channels as leave each a window of
    LEAST_OCTAVES, but at least a sector."""
    name = ("f32", "bf16", "f16")[kind]
    octaves = 29 if kind == gpu_words.FLOAT16 else 47
    found = []
    for channels in (MOST_CHANNELS, 16, 8):
        shared = gpu_last_layout.Shared(name, bits, 32 * WARPS, ELEMENTS[kind], channels, octaves, SLOTS[kind])
        while shared.octaves and 4 * shared.words + REDUCTIONS * channels > shared_bytes:
            shared = replace(shared, octaves=shared.octaves - 1)
        found.append(shared)
    fewest = SECTOR // (4 if kind == gpu_words.FLOAT32 else 2)
    return next((s for s in found if s.octaves >= LEAST_OCTAVES or s.channels == fewest), found[-1])


@cache
def kernel(kind: int, bits: int, shared_bytes: int) -> Any:
    """For tensors of a kind and tables of so many mantissa bits, in so much shared memory."""
    shared = shared_memory_of(kind, bits, shared_bytes)
    asm, constraints = gpu_last_count.count(shared)
    return gl.constexpr(
        Kernel(
            kind,
            WARPS,
            shared.elements,
            shared.vector,
            shared.channels,
            shared.rows,
            shared.octaves,
            shared.own_bits,
            shared.misc,
            shared.words // gpu_last_layout.MISC_ROW,
            shared.limit,
            2 << (9 + bits),
            PATIENCE,
            ptx.begin(shared),
            ptx.place(shared),
            ptx.fetch_first(shared),
            gpu_last_count.count_next(shared),
            asm,
            constraints,
            gpu_last_count.again(shared)[0],
            ptx.check(shared),
            ptx.forget(shared),
            ptx.start_anew(shared),
            gpu_last_flush.flush(shared),
            gpu_last_flush.leave(shared),
            gpu_last_flush.flush_both(shared),
            ptx.park(shared),
        )
    )
