"""The constants of a kernel of `gpu_fast`: how it uses shared memory, and its assembly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from triton.experimental.gluon import language as gl

from calibrant.sketches.kernels import gpu_ptx as ptx
from calibrant.sketches.kernels import gpu_ptx_count, gpu_ptx_flush, gpu_words


@dataclass(frozen=True)
class Kernel:
    """The constants of a compiled kernel."""

    kind: int
    bits: int
    warps: int
    vector: int
    elements: int
    octaves: int
    misc: int
    buffers: int
    table: int
    may_pack: bool
    most_pairs: int
    least: int
    begin: str
    empty: str
    empty_sums: str
    look: str
    look_constraints: str
    asm: str
    wide: str
    wide_constraints: str
    constant: str
    packed: str
    again: str
    constraints: str
    check: str
    forget: str
    flush: str
    flush_packed: str
    take_back: str
    park: str
    end: str


@cache
def kernel(kind: int, bits: int, many: bool, vector: int, shared_bytes: int, waits: bool) -> Any:
    """For tensors of a kind and tables of so many mantissa bits, in so much shared memory; many: whether groups are
    channels; waits: whether it may be launched before what comes before it is through."""
    warps, elements, _ = gpu_words.SHAPES[kind, many]
    own_bits = {gpu_words.FLOAT32: bits, gpu_words.BFLOAT16: 7, gpu_words.FLOAT16: 10}[kind]
    tables = 4 if kind == gpu_words.FLOAT32 else 2
    threads = 32 * warps
    looking = min(threads, ptx.LOOKING)
    spare = 4 * ptx.MISC_WORDS + 8192  # for the misc words, and for what Triton's reductions need
    most = (shared_bytes - spare) // (4 * tables * ptx.LINES) * ptx.LINES
    octaves = min(27 if kind == gpu_words.FLOAT16 else 47, (most - 1) >> own_bits)
    cells = octaves << own_bits
    stride = (cells // ptx.LINES + 1) * ptx.LINES
    shared = ptx.Shared(("f32", "bf16", "f16")[kind], bits, threads, elements, cells, stride, tables * stride)
    asm, constraints = gpu_ptx_count.count(shared)
    return gl.constexpr(
        Kernel(
            kind,
            bits,
            warps,
            vector,
            elements,
            octaves,
            shared.misc,
            shared.misc // ptx.MISC_WORDS + 1,
            2 << (9 + bits),
            kind == gpu_words.FLOAT32,
            int(looking * 31 * (min(0.024 * 2 ** (8 - bits), 0.08) if kind == gpu_words.FLOAT32 else 0.5)),
            gpu_ptx_flush.least(bits),
            ptx.begin(shared, waits),
            ptx.empty(shared, counts=True),
            ptx.empty(shared, counts=False),
            *ptx.look(shared, vector),
            asm,
            *gpu_ptx_count.count(replace(shared, elements=2 * elements)),
            gpu_ptx_count.count(shared, constant=True)[0],
            gpu_ptx_count.count(shared, packed=True)[0],
            gpu_ptx_count.count(shared, again=True)[0],
            constraints,
            ptx.check(shared),
            ptx.forget(shared),
            gpu_ptx_flush.flush(shared, packed=False),
            gpu_ptx_flush.flush(shared, packed=True),
            gpu_ptx_flush.flush(shared, packed=True, back=True),
            ptx.park(shared),
            ptx.end(shared),
        )
    )


def division(divisor: int) -> tuple[int, int]:
    """(magic, shift) such that n // divisor == (n * magic >> 32) >> shift for n < 2**31; divisor: at least 2."""
    bits = (divisor - 1).bit_length()
    return -(-(1 << (31 + bits)) // divisor), bits - 1
