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

from calibrant.sketches.kernels import reference

# What kinds of memory are read: their bits, but of float16 the values, which the hardware widens.
FLOAT32, BFLOAT16, FLOAT16 = range(3)

# A group's state, in words of int64: FIELDS, of which these are used; then the counts and the positions of the table.
# The lowest ordered value is negated, so that both ends grow; the hits of an end lie 8 words after it.
FIELDS = 16
LOW, HIGH = range(2)
N_LOW, N_HIGH, ZEROS, NAN, POS_INF, NEG_INF, SIZE = range(8, 15)

_NONE_LO = tl.constexpr(reference.NONE_LO)
_NONE_HI = tl.constexpr(reference.NONE_HI)
_INFINITE = tl.constexpr(0x7F800000)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_FLOAT32, _BFLOAT16, _FLOAT16 = tl.constexpr(FLOAT32), tl.constexpr(BFLOAT16), tl.constexpr(FLOAT16)
_FIELDS, _SIZE = tl.constexpr(FIELDS), tl.constexpr(SIZE)


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
    half,
    scratch,
    tickets,
    KIND: tl.constexpr,
    TABLE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Count a tensor into half number `half[0]` of `state` (2, groups, words).

    x: of KIND. TABLE: whether there are tables, at BITS mantissa bits; zeros are not in their cells. N_LOW and N_HIGH
    mean nothing where the end is zero. A program counts COLUMNS groups, ROWS elements of each at a time.
    scratch (programs, 16, COLUMNS) and tickets (programs, zeros) are room to work in; PARTS is a power of two >= parts.
    """
    program = tl.program_id(0)
    part = program % parts
    group = program // parts * COLUMNS + tl.arange(0, COLUMNS)
    known = group < groups
    words = _FIELDS + (2 << (9 + BITS) if TABLE else 0)
    own = state + (tl.load(half).to(tl.int64) * groups + tl.where(known, group, 0)) * words

    # One accumulator for each place in a tile: they are brought together once, at the end.
    los = tl.full([ROWS, COLUMNS], _NONE_LO, tl.int32)
    his = tl.full([ROWS, COLUMNS], _NONE_HI, tl.int32)
    n_los, n_his = tl.zeros([ROWS, COLUMNS], tl.int32), tl.zeros([ROWS, COLUMNS], tl.int32)
    zeros, nan = tl.zeros([ROWS, COLUMNS], tl.int32), tl.zeros([ROWS, COLUMNS], tl.int32)
    pos_inf, neg_inf = tl.zeros([ROWS, COLUMNS], tl.int32), tl.zeros([ROWS, COLUMNS], tl.int32)
    tiles = tl.cdiv(inner, ROWS)
    tile = part.to(tl.int64)
    while tile < tiles * outer:
        # Two tiles at once: the second is loaded while the first is still waited for.
        bits, there = _tile(x, tile, tiles, outer, inner, plane, beside, step, group, known, KIND, ROWS)
        next_bits, next_there = _tile(
            x, tile + parts, tiles, outer, inner, plane, beside, step, group, known, KIND, ROWS
        )
        for second in tl.static_range(2):
            if second:
                bits, there = next_bits, next_there
            magnitude = bits & _MAGNITUDE
            finite = there & (magnitude < _INFINITE)
            key = _ordered(tl.where(magnitude == 0, 0, bits))
            least, most = tl.where(finite, key, _NONE_LO), tl.where(finite, key, _NONE_HI)
            n_los = tl.where(least < los, 1, n_los + (least == los).to(tl.int32))
            n_his = tl.where(most > his, 1, n_his + (most == his).to(tl.int32))
            los, his = tl.minimum(los, least), tl.maximum(his, most)
            zeros += (there & (magnitude == 0)).to(tl.int32)
            nan += (there & (magnitude > _INFINITE)).to(tl.int32)
            pos_inf += (there & (bits == _INFINITE)).to(tl.int32)
            neg_inf += (there & (magnitude == _INFINITE) & (bits < 0)).to(tl.int32)
            if TABLE:
                _tabulate(own + _FIELDS, bits, finite & (magnitude != 0), BITS)
        tile += 2 * parts
    lo, hi = tl.min(los, axis=0), tl.max(his, axis=0)
    n_lo = _sum(tl.where((los == lo[None, :]) & (los < _NONE_LO), n_los, 0))
    n_hi = _sum(tl.where((his == hi[None, :]) & (his > _NONE_HI), n_his, 0))

    counts = _sum(zeros), _sum(nan), _sum(pos_inf), _sum(neg_inf)
    size = tl.cast(inner, tl.int64) * outer
    _publish(lo, hi, n_lo, n_hi, counts, size, parts, own, known, scratch, tickets, COLUMNS, PARTS)


@triton.jit
def transpose(x, out, rows, columns, TILE: tl.constexpr):
    """x (rows, columns) to out (columns, rows)."""
    across = tl.cdiv(columns, TILE)
    row = tl.program_id(0) // across * TILE + tl.arange(0, TILE)
    column = tl.program_id(0) % across * TILE + tl.arange(0, TILE)
    there = (row < rows)[:, None] & (column < columns)[None, :]
    values = tl.load(x + row.to(tl.int64)[:, None] * columns + column[None, :], mask=there, other=0)
    to = out + column.to(tl.int64)[:, None] * rows + row[None, :]
    tl.store(to, tl.trans(values), mask=(column < columns)[:, None] & (row < rows)[None, :])


@triton.jit
def _tile(x, tile, tiles, outer, inner, plane, beside, step, group, known, KIND: tl.constexpr, ROWS: tl.constexpr):
    """A tile's bits, and which of them are there."""
    i = tile % tiles * ROWS + tl.arange(0, ROWS)
    there = ((i < inner) & (tile < tiles * outer))[:, None] & known[None, :]
    place = tile // tiles * plane + (i * step)[:, None] + (group.to(tl.int64) * beside)[None, :]
    return _bits(x + place, there, KIND), there


@triton.jit
def _bits(place, there, KIND: tl.constexpr):
    """Float32 bits of what is there, else 0."""
    if KIND == _FLOAT32:
        return tl.load(place, mask=there, other=0)
    if KIND == _BFLOAT16:
        return tl.load(place, mask=there, other=0).to(tl.int32) << 16
    return tl.load(place, mask=there, other=0.0).to(tl.float32).to(tl.int32, bitcast=True)


@triton.jit
def _ordered(bits):
    return bits ^ ((bits >> 31) & _MAGNITUDE)


@triton.jit
def _sum(counts):
    return tl.sum(counts.to(tl.int64), axis=0)


@triton.jit
def _tabulate(counts, bits, chosen, BITS: tl.constexpr):
    """Add to the table at `counts`, whose positions follow its counts."""
    cell = (bits >> (23 - BITS)) & ((1 << (9 + BITS)) - 1)
    position = (bits >> (15 - BITS)) & 255
    to = tl.broadcast_to(counts[None, :], bits.shape) + cell
    tl.atomic_add(to, tl.full(bits.shape, 1, tl.int64), mask=chosen, sem="relaxed")
    tl.atomic_add(to + (1 << (9 + BITS)), position.to(tl.int64), mask=chosen & (position != 0), sem="relaxed")


@triton.jit
def _publish(
    lo, hi, n_lo, n_hi, counts, size, parts, own, known, scratch, tickets, COLUMNS: tl.constexpr, PARTS: tl.constexpr
):
    """Leave what a program found of its groups; the last one of a group's parts adds all to its state.

    counts: zeros, NaN, +Inf and -Inf; size: elements of each group, in all its parts."""
    program, column = tl.program_id(0), tl.arange(0, COLUMNS)
    mine = scratch + program.to(tl.int64) * (16 * COLUMNS) + column
    tl.store(mine, -lo.to(tl.int64))
    tl.store(mine + COLUMNS, hi.to(tl.int64))
    tl.store(mine + 8 * COLUMNS, n_lo)
    tl.store(mine + 9 * COLUMNS, n_hi)
    for field in tl.static_range(4):
        tl.store(mine + (10 + field) * COLUMNS, counts[field])
    tl.debug_barrier()
    ticket = tickets + program // parts
    if tl.atomic_add(ticket, 1, sem="acq_rel") == parts - 1:
        tl.store(ticket, 0)
        row = tl.arange(0, PARTS)
        first = scratch + (program - program % parts).to(tl.int64) * (16 * COLUMNS)
        found = first + row[:, None] * (16 * COLUMNS) + column[None, :]
        _merge(found, (row < parts)[:, None], COLUMNS, own, known)
        tl.store(own + _SIZE, tl.load(own + _SIZE, mask=known, other=0) + size, mask=known)


@triton.jit
def _merge(found, there, COLUMNS: tl.constexpr, own, known):
    """Add what all parts found (parts, groups) to the groups' state."""
    for end in tl.static_range(2):
        theirs = tl.load(found + end * COLUMNS, mask=there, other=-(2**40), cache_modifier=".cg")
        hits = tl.load(found + (8 + end) * COLUMNS, mask=there, other=0, cache_modifier=".cg")
        old = tl.load(own + end, mask=known, other=0)
        furthest = tl.maximum(tl.max(theirs, axis=0), old)
        count = tl.sum(tl.where(theirs == furthest[None, :], hits, 0), axis=0)
        count += tl.where(old == furthest, tl.load(own + 8 + end, mask=known, other=0), 0)
        tl.store(own + end, furthest, mask=known)
        tl.store(own + 8 + end, count, mask=known)
    for field in tl.static_range(10, 14):
        more = tl.sum(tl.load(found + field * COLUMNS, mask=there, other=0, cache_modifier=".cg"), axis=0)
        tl.store(own + field, tl.load(own + field, mask=known, other=0) + more, mask=known)
