"""The kernels of `reference` in Triton's plain language: they run on every GPU that Triton knows, and without one in
its interpreter (TRITON_INTERPRET=1). `gpu` says how they are called, and `gpu_fast` has faster ones for NVIDIA's.

A tensor is looked at as groups, one for all of it or one for each channel, of `outer` planes of `inner` elements each.
Element i of plane n of group g lies at  n * plane + g * beside + i * step. A group's elements are counted by `parts`
programs. Each leaves what it found in `scratch`; whichever comes last adds all parts to the group's state.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Triton's language looks like Python, but its functions take and give what its compiler knows.

from __future__ import annotations

import triton
import triton.language as tl

from calibrant.sketches.kernels import gpu_words
from calibrant.sketches.kernels.gpu_tiles import look

_FLOAT32, _BFLOAT16 = tl.constexpr(gpu_words.FLOAT32), tl.constexpr(gpu_words.BFLOAT16)
_COUNT_BITS, _UNIT_BITS = tl.constexpr(gpu_words.COUNT_BITS), tl.constexpr(gpu_words.UNIT_BITS)
_SETTLED_EACH, _FULL = tl.constexpr(gpu_words.SETTLED_EACH), tl.constexpr(gpu_words.FULL)
_FIELDS, _SIZE, _GROWN = tl.constexpr(gpu_words.FIELDS), tl.constexpr(gpu_words.SIZE), tl.constexpr(gpu_words.GROWN)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def count(
    x,
    outer,
    inner,
    plane,
    beside,
    step,
    groups,
    parts,
    state,
    heads,
    half,
    scratch,
    tickets,
    KIND: tl.constexpr,
    TOTALS: tl.constexpr,
    TABLE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Count a tensor into half number `half[0]` of `state` (2, groups, words), and into the first of so many heads.

    x: of KIND. TOTALS: whether zeros and what is not finite are counted; else zeros are where they are an extreme, and
    nothing that is not finite. TABLE: whether there are tables, at BITS mantissa bits; zeros are not in their cells.
    N_LOW and N_HIGH mean nothing where the end is zero. A program counts COLUMNS groups, ROWS elements of each at a
    time. scratch (programs, 16, COLUMNS) and tickets (programs, zeros) are room to work in; PARTS: of so many, a power
    of two, what they found is merged at once. A group has at most MOST_OF_EACH elements; the only one, if it has no
    table, 2**28.
    """
    program = tl.program_id(0)
    group = program // parts * COLUMNS + tl.arange(0, COLUMNS)
    words = heads * _FIELDS + (2 << (9 + BITS) if TABLE else 0)
    own = state + (tl.load(half).to(tl.int64) * groups + tl.where(group < groups, group, 0)) * words
    where = outer, inner, plane, beside, step
    _count(
        x, where, group, group < groups, program % parts, parts, own, heads, scratch, tickets,
        KIND, TOTALS, TABLE, BITS, ROWS, COLUMNS, PARTS,
    )  # fmt: skip


@triton.jit
def count_ends(
    descriptions,
    half,
    scratch,
    tickets,
    KIND: tl.constexpr,
    LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Count many tensors, of each no TOTALS and no TABLE, into one head: a description (9 words) for each program.

    LAST: whether channels take turns in memory; ALIGNED: whether as many as 16 bytes of them, or of what is inside of
    one, are always read together."""
    program = tl.program_id(0)
    mine = descriptions + program.to(tl.int64) * 9
    kind: tl.constexpr = tl.int32 if KIND == _FLOAT32 else tl.int16 if KIND == _BFLOAT16 else tl.float16
    x, state = tl.load(mine).to(tl.pointer_type(kind)), tl.load(mine + 1).to(tl.pointer_type(tl.int64))
    outer, inner, groups = (
        tl.load(mine + 2).to(tl.int32),
        tl.load(mine + 3).to(tl.int32),
        tl.load(mine + 4).to(tl.int32),
    )
    plane, block = tl.load(mine + 5), tl.load(mine + 6).to(tl.int32)
    part, parts = tl.load(mine + 7).to(tl.int32), tl.load(mine + 8).to(tl.int32)
    if ALIGNED:
        EACH: tl.constexpr = 4 if KIND == _FLOAT32 else 8
        x, plane = tl.multiple_of(x, 16), tl.multiple_of(plane, EACH)
        inner, groups = tl.multiple_of(inner, 1 if LAST else EACH), tl.multiple_of(groups, EACH if LAST else 1)
    group = block * COLUMNS + tl.arange(0, COLUMNS)
    own = state + (tl.load(half).to(tl.int64) * groups + tl.where(group < groups, group, 0)) * _FIELDS
    where = outer, inner, plane, 1 if LAST else inner, groups if LAST else 1
    _count(
        x, where, group, group < groups, part, parts, own, 1, scratch, tickets,
        KIND, False, False, 0, ROWS, COLUMNS, PARTS,
    )  # fmt: skip


@triton.jit
def _count(
    x,
    where,
    group,
    known,
    part,
    parts,
    own,
    heads,
    scratch,
    tickets,
    KIND: tl.constexpr,
    TOTALS: tl.constexpr,
    TABLE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Count a part of some groups; where: (outer, inner, plane, beside, step)."""
    places = x + (group.to(tl.int64) * where[3])[None, :] + (tl.arange(0, ROWS).to(tl.int64) * where[4])[:, None]
    table = own + heads * _FIELDS
    ends, counts = look(places, where, known, part, parts, table, KIND, TOTALS, TABLE, BITS)
    lo, hi, n_lo, n_hi = ends
    size = tl.cast(where[1], tl.int64) * where[0]
    ends = _key(lo), _key(hi), n_lo, n_hi
    last = _publish(ends, counts, size, part, parts, own, known, scratch, tickets, TOTALS, COLUMNS, PARTS)
    if TABLE:  # noqa: SIM102 (decided when it is compiled)
        if last:
            _settle_if_due(own, table, known, size, 1 << (9 + BITS), ROWS)


@triton.jit
def _settle_if_due(own, table, known, size, CELLS: tl.constexpr, ROWS: tl.constexpr):
    """Make room in the first words once so many elements were added that the next ones might have none."""
    grown = tl.load(own + _GROWN, mask=known, other=0)
    tl.debug_barrier()  # or some would read what is written here
    tl.store(own + _GROWN, grown + size, mask=known)
    before = tl.max(grown, axis=0)  # of each group the same
    if before // _SETTLED_EACH != (before + size) // _SETTLED_EACH:
        _settle(table, known, CELLS, ROWS)


@triton.jit
def _key(x):
    return _ordered(tl.where(x == 0, 0, x.to(tl.int32, bitcast=True)))


@triton.jit
def _ordered(bits):
    return bits ^ ((bits >> 31) & _MAGNITUDE)


@triton.jit
def _settle(table, known, CELLS: tl.constexpr, ROWS: tl.constexpr):
    """Make room in the first words of some groups, once nobody adds to them."""
    for first in range(0, CELLS, ROWS):
        place = table[None, :] + (first + tl.arange(0, ROWS))[:, None]
        word = tl.load(place, mask=known[None, :], other=0)
        full = known[None, :] & ((word & _FULL) != 0)
        tl.store(place, word & ~_FULL, mask=full)
        more = tl.load(place + CELLS, mask=full, other=0)
        tl.store(place + CELLS, more + _units(word), mask=full)


@triton.jit
def _units(word):
    """Of the highest bits of count and sum, for the second word."""
    count, total = (word >> (_COUNT_BITS - 1)) & 1, (word >> 63) & 1
    return (count | (total << 32)) << (_COUNT_BITS - 1 - _UNIT_BITS)


@triton.jit
def _publish(
    ends,
    counts,
    size,
    part,
    parts,
    own,
    known,
    scratch,
    tickets,
    TOTALS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Leave what a program found of its groups; the last one of a group's parts adds all to its state. Return whether
    that is this one.

    ends: lowest, highest, and the hits of both; counts: zeros, and with TOTALS NaN, +Inf and -Inf; size: elements of
    each group, in all its parts."""
    program, column = tl.program_id(0), tl.arange(0, COLUMNS)
    lo, hi, n_lo, n_hi = ends
    last_count: tl.constexpr = 14 if TOTALS else 11
    mine = scratch + program.to(tl.int64) * (16 * COLUMNS) + column
    tl.store(mine, -lo.to(tl.int64))
    tl.store(mine + COLUMNS, hi.to(tl.int64))
    tl.store(mine + 8 * COLUMNS, n_lo)
    tl.store(mine + 9 * COLUMNS, n_hi)
    for field in tl.static_range(10, last_count):
        tl.store(mine + field * COLUMNS, counts[field - 10])
    tl.debug_barrier()
    ticket = tickets + program - part
    last = tl.atomic_add(ticket, 1, sem="acq_rel") == parts - 1
    if last:
        tl.store(ticket, 0)
        # All is read before anything is written, for whatever is read after that would wait.
        low, n_low = tl.load(own, mask=known, other=0), tl.load(own + 8, mask=known, other=0)
        high, n_high = tl.load(own + 1, mask=known, other=0), tl.load(own + 9, mask=known, other=0)
        zeros, elements = tl.load(own + 10, mask=known, other=0), tl.load(own + _SIZE, mask=known, other=0)
        row, first = tl.arange(0, PARTS), parts * 0
        while first < parts:
            found = scratch + (program - part + first + row).to(tl.int64)[:, None] * (16 * COLUMNS) + column[None, :]
            there = (first + row < parts)[:, None]
            low, n_low = _further(found, there, low, n_low, COLUMNS)
            high, n_high = _further(found + COLUMNS, there, high, n_high, COLUMNS)
            zeros += tl.sum(_found(found + 10 * COLUMNS, there, 0), 0)
            if TOTALS:
                for field in tl.static_range(11, 14):
                    more = tl.sum(_found(found + field * COLUMNS, there, 0), 0)
                    tl.store(own + field, tl.load(own + field, mask=known, other=0) + more, mask=known)
                    tl.debug_barrier()
            first += PARTS
        tl.debug_barrier()
        tl.store(own, low, mask=known)
        tl.store(own + 8, n_low, mask=known)
        tl.store(own + 1, high, mask=known)
        tl.store(own + 9, n_high, mask=known)
        tl.store(own + 10, zeros, mask=known)
        tl.store(own + _SIZE, elements + size, mask=known)
    return last


@triton.jit
def _further(found, there, old, old_hits, COLUMNS: tl.constexpr):
    """The further of an end and of what parts found (parts, groups), and how often it was hit."""
    theirs, hits = _found(found, there, -(2**40)), _found(found + 8 * COLUMNS, there, 0)
    furthest = tl.maximum(tl.max(theirs, axis=0), old)
    hits = tl.sum(tl.where(theirs == furthest[None, :], hits, 0), axis=0)
    return furthest, hits + tl.where(old == furthest, old_hits, 0)


@triton.jit
def _found(places, there, nothing):
    return tl.load(places, mask=there, other=nothing, cache_modifier=".cg")
