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

# What kinds of memory are read: their bits, but of float16 the values, which the hardware widens.
FLOAT32, BFLOAT16, FLOAT16 = range(3)

# For `gpu_fast`, by what is read and whether groups are channels: warps of a program, elements of a thread at once, and
# registers of a thread. Channels are many and small: the smaller their programs, the more are at work together, if
# shared memory suffices.
SHAPES = {
    (FLOAT32, False): (32, 8, 64),
    (FLOAT32, True): (8, 8, 64),
    (BFLOAT16, False): (16, 32, 128),
    (BFLOAT16, True): (8, 16, 64),
    (FLOAT16, False): (32, 16, 64),
    (FLOAT16, True): (32, 16, 64),
}

# A group's state, in words of int64: heads of FIELDS, of which these are used; then a table. The lowest
# ordered value is negated, so that both ends grow; the hits of an end lie ENDS words after it.
FIELDS, ENDS = 16, 8
LOW, HIGH = range(2)
N_LOW, N_HIGH, ZEROS, NAN, POS_INF, NEG_INF, SIZE, GROWN = range(8, 16)

# A table has two words for each cell: the first ones of all cells, then the second ones. In the first are a count and,
# from bit COUNT_BITS on, a sum of positions, for one addition to memory is faster than two. In the second is what these
# have no room for: of the count in units of 1 << UNIT_BITS, and from bit 32 on, of the sum in units of 256 times that.
#
# To each first word a launch adds at most as many elements as a group has, which are MOST_OF_EACH; in `gpu_fast` it may
# have more, if less than two units of each program, of at most 256, are added, but for single ones, of which whoever
# adds one looks how many there are. Before there are too many, the highest bits of count and sum go to the second word:
# where many programs share in that, in every launch; else whenever what may have been added, by SIZE or GROWN, passes a
# multiple of SETTLED_EACH. So a count stays below 2**27 + 512 units + SETTLED_EACH + 2 * MOST_OF_EACH, which is 2**28,
# and a sum below 255 times that.
COUNT_BITS, UNIT_BITS, MOST_OF_EACH, SETTLED_EACH = 28, 17, 1 << 24, 1 << 25
FULL = (1 << (COUNT_BITS - 1)) - (1 << 63)  # the highest bits of both

_COUNT_BITS, _UNIT_BITS = tl.constexpr(COUNT_BITS), tl.constexpr(UNIT_BITS)
_SETTLED_EACH, _FULL = tl.constexpr(SETTLED_EACH), tl.constexpr(FULL)
_INFINITY = tl.constexpr(float("inf"))
_NAN, _NARROW_NAN = tl.constexpr(0x7FC00000), tl.constexpr(0x7FC0)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_FLOAT32, _BFLOAT16, _FLOAT16 = tl.constexpr(FLOAT32), tl.constexpr(BFLOAT16), tl.constexpr(FLOAT16)
_FIELDS, _SIZE, _GROWN = tl.constexpr(FIELDS), tl.constexpr(SIZE), tl.constexpr(GROWN)


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
    of two, what they found is merged at once. A group has at most MOST_OF_EACH elements.
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
    los, his, n_los, n_his, zeros, numbers, pos_inf, neg_inf, seen = _look(
        places, where, known, part, parts, table, KIND, TOTALS, TABLE, BITS, ROWS, COLUMNS, INFINITE=TABLE
    )
    if not TABLE:  # noqa: SIM102 (decided when it is compiled)
        if tl.max(((tl.min(los, axis=0) == -_INFINITY) | (tl.max(his, axis=0) == _INFINITY)).to(tl.int32), axis=0) > 0:
            los, his, n_los, n_his, zeros, numbers, pos_inf, neg_inf, seen = _look(
                places, where, known, part, parts, table, KIND, TOTALS, TABLE, BITS, ROWS, COLUMNS, INFINITE=True
            )
    lo, hi = tl.min(los, axis=0), tl.max(his, axis=0)
    n_lo = _sum(tl.where((los == lo[None, :]) & (los < _INFINITY), n_los, 0))
    n_hi = _sum(tl.where((his == hi[None, :]) & (his > -_INFINITY), n_his, 0))
    if TOTALS:
        counts = _sum(zeros), seen - _sum(numbers), _sum(pos_inf), _sum(neg_inf)
    else:
        none = n_lo * 0
        counts = tl.where(lo == 0, n_lo, tl.where(hi == 0, n_hi, 0)), none, none, none
    size = tl.cast(where[1], tl.int64) * where[0]
    ends = _key(lo), _key(hi), n_lo, n_hi
    last = _publish(ends, counts, size, part, parts, own, known, scratch, tickets, TOTALS, COLUMNS, PARTS)
    if TABLE:  # noqa: SIM102 (decided when it is compiled)
        if last:
            _settle_if_due(own, table, known, size, 1 << (9 + BITS), ROWS)


@triton.jit
def _look(
    places,
    where,
    known,
    part,
    parts,
    table,
    KIND: tl.constexpr,
    TOTALS: tl.constexpr,
    TABLE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INFINITE: tl.constexpr,
):
    """What a part's tiles hold, of each place in a tile, and how many elements of a group they have.

    INFINITE: whether to look for infinities, which else are taken for extremes."""
    outer, inner, plane, _beside, step = where
    row = tl.arange(0, ROWS)
    # One accumulator for each place in a tile: they are brought together once, at the end. Values are compared as
    # floats, for which 0.0 is -0.0, and which know nothing less or more than NaN. What is counted is a float too, which
    # takes two instructions instead of three: a place has at most 2**20 elements.
    los, his = tl.full([ROWS, COLUMNS], _INFINITY, tl.float32), tl.full([ROWS, COLUMNS], -_INFINITY, tl.float32)
    nothing = tl.zeros([ROWS, COLUMNS], tl.float32)
    n_los, n_his, zeros, numbers, pos_inf, neg_inf = nothing, nothing, nothing, nothing, nothing, nothing
    across = tl.cdiv(inner, ROWS)
    tiles = across * outer
    tile, seen = part + tiles * 0, tiles * 0
    while tile < tiles:
        # Four tiles at once: they are all on their way before the first is waited for, and brought together first.
        a, in_a = _tile(places, tile, tiles, across, inner, plane, step, row, known, KIND)
        b, in_b = _tile(places, tile + parts, tiles, across, inner, plane, step, row, known, KIND)
        c, in_c = _tile(places, tile + 2 * parts, tiles, across, inner, plane, step, row, known, KIND)
        d, in_d = _tile(places, tile + 3 * parts, tiles, across, inner, plane, step, row, known, KIND)
        if TOTALS:
            seen += in_a + in_b + in_c + in_d
            zeros += _equal(a, b, c, d, 0)
            numbers += _true(a == a, b == b, c == c, d == d)
            if INFINITE:
                pos_inf += _equal(a, b, c, d, _INFINITY)
                neg_inf += _equal(a, b, c, d, -_INFINITY)
        if INFINITE:
            a, b, c, d = _finite(a), _finite(b), _finite(c), _finite(d)
        if TABLE:
            _tabulate(table, a, BITS)
            _tabulate(table, b, BITS)
            _tabulate(table, c, BITS)
            _tabulate(table, d, BITS)
        lo = tl.minimum(los, tl.minimum(tl.minimum(a, b), tl.minimum(c, d)))
        hi = tl.maximum(his, tl.maximum(tl.maximum(a, b), tl.maximum(c, d)))
        n_los = tl.where(lo < los, 0, n_los) + _equal(a, b, c, d, lo)
        n_his = tl.where(hi > his, 0, n_his) + _equal(a, b, c, d, hi)
        los, his = lo, hi
        tile += 4 * parts
    return los, his, n_los, n_his, zeros, numbers, pos_inf, neg_inf, seen


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
def _tile(places, tile, tiles, across, inner, plane, step, row, known, KIND: tl.constexpr):
    """A tile's values as float32, NaN where there are none; and how many rows of it there are."""
    n = tile // across
    i = (tile - n * across) * row.shape[0]
    rows = tl.where(tile < tiles, tl.minimum(inner - i, row.shape[0]), 0)
    there = (row < rows)[:, None] & known[None, :]
    place = places + (n.to(tl.int64) * plane + i.to(tl.int64) * step)
    if KIND == _FLOAT32:
        x = tl.load(place, mask=there, other=_NAN).to(tl.float32, bitcast=True)
    elif KIND == _BFLOAT16:
        x = (tl.load(place, mask=there, other=_NARROW_NAN).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        x = tl.load(place, mask=there, other=float("nan")).to(tl.float32)
    return x, rows


@triton.jit
def _finite(x):
    return tl.where(tl.abs(x) < _INFINITY, x, float("nan"))


@triton.jit
def _equal(a, b, c, d, x):
    return _true(a == x, b == x, c == x, d == x)


@triton.jit
def _true(a, b, c, d):
    return (a.to(tl.float32) + b.to(tl.float32)) + (c.to(tl.float32) + d.to(tl.float32))


@triton.jit
def _key(x):
    return _ordered(tl.where(x == 0, 0, x.to(tl.int32, bitcast=True)))


@triton.jit
def _ordered(bits):
    return bits ^ ((bits >> 31) & _MAGNITUDE)


@triton.jit
def _sum(counts):
    return tl.sum(counts.to(tl.int32), axis=0).to(tl.int64)


@triton.jit
def _tabulate(counts, x, BITS: tl.constexpr):
    """Add all but zeros and NaN to the table at `counts`."""
    bits, chosen = x.to(tl.int32, bitcast=True), (x < 0) | (x > 0)
    cell = (bits >> (23 - BITS)) & ((1 << (9 + BITS)) - 1)
    position = (bits >> (15 - BITS)) & 255
    to = tl.broadcast_to(counts[None, :], bits.shape) + cell
    tl.atomic_add(to, (position.to(tl.int64) << _COUNT_BITS) + 1, mask=chosen, sem="relaxed")


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
