"""Room in the first words of tables: see `gpu_words`."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from calibrant.sketches.kernels import gpu_words
from calibrant.sketches.kernels.gpu_asm import barrier

_COUNT_BITS, _UNIT_BITS = gl.constexpr(gpu_words.COUNT_BITS), gl.constexpr(gpu_words.UNIT_BITS)
_SETTLED_EACH, _FULL = gl.constexpr(gpu_words.SETTLED_EACH), gl.constexpr(gpu_words.FULL)
_FIELDS, _GROWN = gl.constexpr(gpu_words.FIELDS), gl.constexpr(gpu_words.GROWN)

_ENOUGH = gl.constexpr(16)  # parts, for which it takes no longer than to wait for the first values


@gluon.jit
def settle(own, heads, most, part, parts, K: gl.constexpr):
    """Make room in the first words of a group's table, if it is time to; others may add to them meanwhile. own: the
    group's state; most: elements that the launch may add to one of them, in so many parts."""
    CELLS: gl.constexpr = K.table // 2
    table = own + heads * _FIELDS
    if parts >= _ENOUGH:
        share = (CELLS + parts - 1) // parts
        move(table, part * share, gl.minimum((part + 1) * share, CELLS), K)
    elif part == 0:
        before = gl.load(own + _GROWN)
        barrier()  # or some would read what is written here
        gl.store(own + _GROWN, before + most)
        if passes(before, most):
            move(table, 0, CELLS, K)


@gluon.jit
def passes(before, more):
    """Whether so many elements pass a multiple of SETTLED_EACH."""
    return before // _SETTLED_EACH != (before + more) // _SETTLED_EACH


@gluon.jit
def move(table, begin, end, K: gl.constexpr):
    """Move the highest bits of the words from `begin` to `end`."""
    line: gl.constexpr = gl.BlockedLayout([1], [32], [K.warps], [0])
    for first in range(begin, end, 64 * K.warps):
        cell = first + gl.arange(0, 64 * K.warps, layout=line)
        word = gl.load(table + cell, mask=cell < end, other=0, cache_modifier=".cg")
        full = (word & _FULL) != 0
        word = gl.atomic_and(table + cell, ~_FULL + word * 0, mask=full, sem="relaxed")
        count, total = (word >> (_COUNT_BITS - 1)) & 1, (word >> 63) & 1
        units = (count | (total << 32)) << (_COUNT_BITS - 1 - _UNIT_BITS)
        gl.atomic_add(table + cell + K.table // 2, units, mask=full, sem="relaxed")
