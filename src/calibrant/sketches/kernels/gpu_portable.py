"""The kernels of `reference` in Triton's plain language: they run on every GPU that Triton knows, and without one in its
interpreter (TRITON_INTERPRET=1). `gpu` says how they are called, and `gpu_fast` has faster ones for NVIDIA's.

A tensor is looked at as groups, one for all of it or one for each channel, of `outer` planes of `inner` elements each.
Element i of plane n of group g lies at  n * plane + g * beside + i * step. A group's elements are counted by `parts`
programs. Each leaves what it found in `scratch`; whichever comes last adds all parts to the group's state.
"""

# mypy: disable-error-code="misc,no-untyped-def,no-untyped-call"
# Triton's language looks like Python, but its functions take and give what its compiler knows.

from __future__ import annotations

import triton
import triton.language as tl

from calibrant.sketches.kernels import reference

# What kinds of memory are read: their bits, but of float16 the values, which the hardware widens.
FLOAT32, BFLOAT16, FLOAT16 = range(3)

# A group's state, int64: FIELDS words, of which the named are used, then the counts and the positions of the table.
FIELDS = 16
LO, HI, N_LO, N_HI, ZEROS, NAN, POS_INF, NEG_INF, SIZE = range(9)

_NONE_LO = tl.constexpr(reference.NONE_LO)
_NONE_HI = tl.constexpr(reference.NONE_HI)
_INFINITE = tl.constexpr(0x7F800000)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_LEAST_INT, _MOST_INT = tl.constexpr(-(2**31)), tl.constexpr(2**31 - 1)
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

    x: of KIND. TABLE: whether there are tables, at BITS mantissa bits; zeros are not in their cells. N_LO and N_HI mean
    nothing where the end is zero. A program counts COLUMNS groups, ROWS elements of each at a time.
    scratch (programs, 8, COLUMNS) and tickets (programs, zeros) are room to work in; PARTS is a power of two >= parts.
    """
    program = tl.program_id(0)
    part = program % parts
    group = program // parts * COLUMNS + tl.arange(0, COLUMNS)
    known = group < groups
    words = _FIELDS + (2 << (9 + BITS) if TABLE else 0)
    own = state + (tl.load(half).to(tl.int64) * groups + tl.where(known, group, 0)) * words

    lo = tl.full([COLUMNS], _NONE_LO, tl.int32)
    hi = tl.full([COLUMNS], _NONE_HI, tl.int32)
    n_lo, n_hi = tl.zeros([COLUMNS], tl.int64), tl.zeros([COLUMNS], tl.int64)
    zeros, nan = tl.zeros([COLUMNS], tl.int64), tl.zeros([COLUMNS], tl.int64)
    pos_inf, neg_inf = tl.zeros([COLUMNS], tl.int64), tl.zeros([COLUMNS], tl.int64)
    tiles = tl.cdiv(inner, ROWS)
    tile = part.to(tl.int64)
    while tile < tiles * outer:
        i = tile % tiles * ROWS + tl.arange(0, ROWS)
        there = (i < inner)[:, None] & known[None, :]
        place = tile // tiles * plane + (i * step)[:, None] + (group.to(tl.int64) * beside)[None, :]
        bits = _bits(x + place, there, KIND)
        magnitude = bits & _MAGNITUDE
        finite = there & (magnitude < _INFINITE)
        zero = there & (magnitude == 0)
        key = _ordered(tl.where(zero, 0, bits))
        least = tl.min(tl.where(finite, key, _NONE_LO), axis=0)
        most = tl.max(tl.where(finite, key, _NONE_HI), axis=0)
        n_least, n_most = _sum(finite & (key == least[None, :])), _sum(finite & (key == most[None, :]))
        n_lo = tl.where(least < lo, n_least, n_lo + tl.where(least == lo, n_least, 0))
        n_hi = tl.where(most > hi, n_most, n_hi + tl.where(most == hi, n_most, 0))
        lo, hi = tl.minimum(lo, least), tl.maximum(hi, most)
        zeros += _sum(zero)
        nan += _sum(there & (magnitude > _INFINITE))
        pos_inf += _sum(there & (bits == _INFINITE))
        neg_inf += _sum(there & (magnitude == _INFINITE) & (bits < 0))
        if TABLE:
            _tabulate(own + _FIELDS, bits, finite & (magnitude != 0), BITS)
        tile += parts

    column = tl.arange(0, COLUMNS)
    mine = scratch + program.to(tl.int64) * (8 * COLUMNS) + column
    tl.store(mine, lo.to(tl.int64))
    tl.store(mine + COLUMNS, hi.to(tl.int64))
    tl.store(mine + 2 * COLUMNS, n_lo)
    tl.store(mine + 3 * COLUMNS, n_hi)
    tl.store(mine + 4 * COLUMNS, zeros)
    tl.store(mine + 5 * COLUMNS, nan)
    tl.store(mine + 6 * COLUMNS, pos_inf)
    tl.store(mine + 7 * COLUMNS, neg_inf)
    tl.debug_barrier()
    ticket = tickets + program // parts
    if tl.atomic_add(ticket, 1, sem="acq_rel") == parts - 1:
        tl.store(ticket, 0)
        row = tl.arange(0, PARTS)
        first = scratch + (program - part).to(tl.int64) * (8 * COLUMNS)
        found = first + row[:, None] * (8 * COLUMNS) + column[None, :]
        _merge(found, (row < parts)[:, None], COLUMNS, own, known, inner.to(tl.int64) * outer)


@triton.jit
def top_two(
    x,
    rows,
    length,
    inner,
    channels,
    channel_stride,
    codes,
    groups,
    cursor,
    half,
    capacity,
    KIND: tl.constexpr,
    ALONG: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The two largest of each row of x (outer, length, inner), the rows in the order (outer, inner).

    Row r leaves at cursor[0] + r, where that is less than capacity: the bits of its two ordered keys in turn, the
    largest one's first, in `codes` (of a row of one, the same twice); and in `groups`, -1 where a value is not finite, else
    (alone * 2 + half[0]) * channels + channel, where channel = r // channel_stride % channels and alone is length == 1.
    Tiles are (ROWS, COLUMNS), the rows of x along axis ALONG.
    """
    LINES: tl.constexpr = COLUMNS if ALONG == 0 else ROWS
    STEP: tl.constexpr = ROWS if ALONG == 0 else COLUMNS
    row = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)
    base = row // inner * (inner * length) + row % inner
    best = tl.full([ROWS, COLUMNS], _LEAST_INT, tl.int32)
    next_best, least = best, tl.full([ROWS, COLUMNS], _MOST_INT, tl.int32)
    start = length * 0
    while start < length:
        k = start + tl.arange(0, STEP)
        if ALONG == 0:
            place = base[None, :] + k.to(tl.int64)[:, None] * inner
            there = (row < rows)[None, :] & (k < length)[:, None]
        else:
            place = base[:, None] + k.to(tl.int64)[None, :] * inner
            there = (row < rows)[:, None] & (k < length)[None, :]
        bits = _bits(x + place, there, KIND)
        key = _ordered(tl.where((bits & _MAGNITUDE) == 0, 0, bits))
        least = tl.minimum(least, tl.where(there, key, _MOST_INT))
        key = tl.where(there, key, _LEAST_INT)
        next_best = tl.maximum(next_best, tl.minimum(best, key))
        best = tl.maximum(best, key)
        start += STEP
    top, second = tl.reduce((best, next_best), ALONG, _two_of_four)
    finite = (tl.min(least, axis=ALONG) > _NONE_HI) & (top < _NONE_LO)
    second = tl.where(length == 1, top, second)
    channel = (row // channel_stride % channels).to(tl.int32)
    group = (tl.where(length == 1, 2, 0) + tl.load(half)) * channels + channel
    to = tl.load(cursor) + row
    kept = (row < rows) & (to < capacity)
    tl.store(codes + to, _spread(top) * 2 + _spread(second), mask=kept)
    tl.store(groups + to, tl.where(finite, group, -1), mask=kept)


@triton.jit
def _two_of_four(one, one_next, other, other_next):
    return tl.maximum(one, other), tl.maximum(tl.minimum(one, other), tl.maximum(one_next, other_next))


@triton.jit
def _spread(key):
    """The 32 bits of a key, as the even ones of 64."""
    wide = key.to(tl.int64) & 0xFFFFFFFF
    wide = (wide | (wide << 16)) & 0x0000FFFF0000FFFF
    wide = (wide | (wide << 8)) & 0x00FF00FF00FF00FF
    wide = (wide | (wide << 4)) & 0x0F0F0F0F0F0F0F0F
    wide = (wide | (wide << 2)) & 0x3333333333333333
    return (wide | (wide << 1)) & 0x5555555555555555


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
def _sum(chosen):
    return tl.sum(chosen.to(tl.int32), axis=0).to(tl.int64)


@triton.jit
def _tabulate(counts, bits, chosen, BITS: tl.constexpr):
    """Add to the table at `counts`, whose positions follow its counts."""
    cell = (bits >> (23 - BITS)) & ((1 << (9 + BITS)) - 1)
    position = (bits >> (15 - BITS)) & 255
    to = tl.broadcast_to(counts[None, :], bits.shape) + cell
    tl.atomic_add(to, tl.full(bits.shape, 1, tl.int64), mask=chosen, sem="relaxed")
    tl.atomic_add(to + (1 << (9 + BITS)), position.to(tl.int64), mask=chosen & (position != 0), sem="relaxed")


@triton.jit
def _merge(found, there, COLUMNS: tl.constexpr, own, known, size):
    """Add what all parts found (parts, groups) to the groups' state."""
    los = tl.load(found, mask=there, other=_NONE_LO, cache_modifier=".cg")
    his = tl.load(found + COLUMNS, mask=there, other=_NONE_HI, cache_modifier=".cg")
    lo, hi = tl.min(los, axis=0), tl.max(his, axis=0)
    n_los = tl.load(found + 2 * COLUMNS, mask=there, other=0, cache_modifier=".cg")
    n_his = tl.load(found + 3 * COLUMNS, mask=there, other=0, cache_modifier=".cg")
    n_lo = tl.sum(tl.where(los == lo[None, :], n_los, 0), axis=0)
    n_hi = tl.sum(tl.where(his == hi[None, :], n_his, 0), axis=0)
    old_lo, old_hi = tl.load(own, mask=known, other=0), tl.load(own + 1, mask=known, other=0)
    old_n_lo, old_n_hi = tl.load(own + 2, mask=known, other=0), tl.load(own + 3, mask=known, other=0)
    n_lo = tl.where(lo < old_lo, n_lo, old_n_lo + tl.where(lo == old_lo, n_lo, 0))
    n_hi = tl.where(hi > old_hi, n_hi, old_n_hi + tl.where(hi == old_hi, n_hi, 0))
    tl.store(own, tl.minimum(lo, old_lo), mask=known)
    tl.store(own + 1, tl.maximum(hi, old_hi), mask=known)
    tl.store(own + 2, n_lo, mask=known)
    tl.store(own + 3, n_hi, mask=known)
    for field in tl.static_range(4, 8):
        more = tl.sum(tl.load(found + field * COLUMNS, mask=there, other=0, cache_modifier=".cg"), axis=0)
        tl.store(own + field, tl.load(own + field, mask=known, other=0) + more, mask=known)
    tl.store(own + _SIZE, tl.load(own + _SIZE, mask=known, other=0) + size, mask=known)
