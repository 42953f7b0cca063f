"""Room in the words that counts and sums of positions share: see `gpu_portable`."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from calibrant.sketches.kernels import gpu_portable as portable

_COUNT_BITS, _SETTLED_EACH = gl.constexpr(portable.COUNT_BITS), gl.constexpr(portable.SETTLED_EACH)


@gluon.jit
def settle(table, before, more, K: gl.constexpr):
    """Make room in the words of a group's table, if it is time to. Others may add to them meanwhile, but one program of
    the group does this. table: its address as a pointer; before, more: elements of the group, and those that are added.
    """
    CELLS: gl.constexpr = K.table // 2
    line: gl.constexpr = gl.BlockedLayout([1], [32], [K.warps], [0])
    if before // _SETTLED_EACH != (before + more) // _SETTLED_EACH:
        for first in range(0, CELLS, 32 * K.warps):
            place = table + first + gl.arange(0, 32 * K.warps, layout=line)
            word = gl.load(place, cache_modifier=".cg")
            count, total = (word >> (_COUNT_BITS - 1)) & 1, (word >> 63) & 1
            full = (count | total) != 0
            gl.atomic_add(place, (total << 63) - (count << (_COUNT_BITS - 1)), mask=full, sem="relaxed")
            gl.atomic_add(place + CELLS, count | (total << 32), mask=full, sem="relaxed")
