"""The kernels for margins in Triton's plain language: the two largest of each row, and a table that counts such pairs.

A table is int64 words: a head of SHIFT, CELLS, SEEN and twice a word for each channel, rows whose two largest are equal
and rows of one value; then three words for each of its slots, first all owners, then all names, then all counts.
A cell is named by its channel and by its two keys >> SHIFT, which are packed into one word. It is at a place that its
name decides, or where that is taken by another, some steps further. An owner is 0 where the slot is free, LOCKED while
its name is being written, else the channel + 2. So all zeros are an empty table.
"""

# mypy: disable-error-code="misc,no-untyped-def,no-untyped-call,untyped-decorator"
# Triton's language looks like Python, but its functions take and give what its compiler knows.

from __future__ import annotations

import triton
import triton.language as tl

from calibrant.sketches.kernels import gpu_portable as portable

SHIFT, CELLS, SEEN, HEAD = range(4)
LOCKED, FIRST_OWNER = 1, 2

_INFINITY = tl.constexpr(float("inf"))
_LOWEST = tl.constexpr(0xFF7FFFFF - 2**32)  # bits of the lowest finite value
_FLOAT32, _BFLOAT16 = tl.constexpr(portable.FLOAT32), tl.constexpr(portable.BFLOAT16)
_SHIFT, _CELLS, _SEEN, _HEAD = tl.constexpr(SHIFT), tl.constexpr(CELLS), tl.constexpr(SEEN), tl.constexpr(HEAD)
_LOCKED, _FIRST_OWNER = tl.constexpr(LOCKED), tl.constexpr(FIRST_OWNER)
_LOW_HALF = tl.constexpr(0xFFFFFFFF)
_key = portable._key


@triton.jit
def top_two(
    x,
    first,
    rows,
    length,
    inner,
    channels,
    channel_stride,
    pairs,
    owners,
    KIND: tl.constexpr,
    ALONG: tl.constexpr,
    ONCE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The two largest of `rows` rows of x (outer, length, inner) from row `first` on, in the order (outer, inner).

    Row r leaves at r - first in `pairs` (rows, 2) the ordered keys of the largest and of the second largest value, of a
    row of one the same twice; and in `owners` its channel, which is r // channel_stride % channels, or -1 where a value
    is not finite. Tiles are (ROWS, COLUMNS), the rows of x along their axis ALONG. ONCE: whether rows are no longer.
    """
    LINES: tl.constexpr = COLUMNS if ALONG == 0 else ROWS
    STEP: tl.constexpr = ROWS if ALONG == 0 else COLUMNS
    line = tl.program_id(0) * LINES + tl.arange(0, LINES)
    row = line + first
    base = (row // inner).to(tl.int64) * inner * length + row % inner
    best = tl.full([ROWS, COLUMNS], -_INFINITY, tl.float32)
    next_best, furthest = best, tl.zeros([ROWS, COLUMNS], tl.float32)
    if ONCE:  # then that many accumulators are not needed
        best = _values(x, base, line < rows, tl.arange(0, STEP), length, inner, KIND, ALONG)
        furthest = tl.abs(best)
    else:
        start = length * 0
        while start < length:
            value = _values(x, base, line < rows, start + tl.arange(0, STEP), length, inner, KIND, ALONG)
            next_best = tl.maximum(next_best, tl.minimum(best, value))
            best = tl.maximum(best, value)
            furthest = tl.maximum(furthest, tl.abs(value), propagate_nan=tl.PropagateNan.ALL)
            start += STEP
    best, next_best, furthest = tl.reduce((best, next_best, furthest), ALONG, _of_both)
    finite = furthest < _INFINITY
    top = _key(best)
    second = tl.where(length == 1, top, _key(next_best))
    kept = line < rows
    tl.store(pairs + line.to(tl.int64) * 2, top, mask=kept)
    tl.store(pairs + line.to(tl.int64) * 2 + 1, second, mask=kept)
    tl.store(owners + line, tl.where(finite, row // channel_stride % channels, -1), mask=kept)


@triton.jit
def tally(pairs, owners, rows, alone, tables, half, channels, slots, TILE: tl.constexpr):
    """Count what `top_two` found into table number `half[0]` of `tables`, which has room for so many cells more.

    alone: whether rows are of one value. slots: a power of two; channels: for which the table has words in its head."""
    table = tables + tl.load(half).to(tl.int64) * (_HEAD + 2 * channels + 3 * slots)
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    there = row < rows
    channel = tl.load(owners + row, mask=there, other=-1)
    top = tl.load(pairs + row.to(tl.int64) * 2, mask=there, other=0)
    second = tl.load(pairs + row.to(tl.int64) * 2 + 1, mask=there, other=0)
    finite = channel >= 0
    channel = tl.where(finite, channel, 0)
    equal = table + _HEAD + alone * channels + channel
    one = tl.full([TILE], 1, tl.int64)
    tl.atomic_add(equal, one, mask=finite & (top == second), sem="relaxed")
    name = _name(top, second, tl.load(table + _SHIFT).to(tl.int32))
    cells = table + _HEAD + 2 * channels
    fresh = _add(cells, slots, channel.to(tl.int64) + _FIRST_OWNER, name, one, finite & (top != second))
    tl.atomic_add(table + _CELLS, fresh, sem="relaxed")
    tl.atomic_add(table + _SEEN, tl.sum(there.to(tl.int64), 0), sem="relaxed")


@triton.jit
def fit(descriptions, tables, spares, spare_slots, limit, most_shift, TILE: tl.constexpr):
    """Make the keys of each table coarser until it has no more than `limit` cells, or cannot become coarser.

    descriptions (tables, 3): the table's address, how many words its head has, and how many slots it has.
    spares (programs, 3 * spare_slots): all zeros, and left so."""
    number = tl.program_id(0)
    spare = spares + number.to(tl.int64) * (3 * spare_slots)
    while number < tables:
        table = tl.load(descriptions + number * 3).to(tl.pointer_type(tl.int64))
        slots = tl.load(descriptions + number * 3 + 2)
        cells, shift = tl.load(table + _CELLS), tl.load(table + _SHIFT)
        own = table + tl.load(descriptions + number * 3 + 1)
        while (cells > limit) & (shift < most_shift):
            cells = _move(own, spare, slots, 1, TILE)
            again = ((cells > limit) & (shift + 1 < most_shift)).to(tl.int32)
            cells = _move(spare, own, slots, again, TILE)
            shift += 1 + again
            tl.store(table + _CELLS, cells)
            tl.store(table + _SHIFT, shift)
        number += tl.num_programs(0)


@triton.jit
def _move(cells, to, slots, coarser, TILE: tl.constexpr):
    """Move all cells to another table, which is empty, their keys coarser by so many bits; how many there are then."""
    moved = slots * 0
    start = moved
    while start < slots:
        place = start + tl.arange(0, TILE)
        owner = tl.load(cells + place, cache_modifier=".cg")  # what atomics wrote, which went past the first cache
        name = tl.load(cells + slots + place, cache_modifier=".cg")
        count = tl.load(cells + 2 * slots + place, cache_modifier=".cg")
        nothing = tl.zeros([TILE], tl.int64)
        for column in tl.static_range(3):
            tl.store(cells + column * slots + place, nothing)
        name = _name((name >> 32).to(tl.int32), name.to(tl.int32), coarser)
        moved += _add(to, slots, owner, name, count, owner > 0)
        start += TILE
    tl.debug_barrier()
    return moved


@triton.jit
def _name(top, second, shift):
    return ((top >> shift).to(tl.int64) << 32) | ((second >> shift).to(tl.int64) & _LOW_HALF)


@triton.jit
def _add(cells, slots, owner, name, count, waiting):
    """Add counts to cells, of those that are `waiting`; return how many cells are new."""
    mixed = name * -7046029254386353131 + owner * -4658895280553007687
    mixed = (mixed ^ ((mixed >> 32) & _LOW_HALF)) * -7723592293110705685
    place, step = (mixed >> 24) & (slots - 1), ((mixed >> 44) & (slots - 1)) | 1
    fresh = owner * 0
    left = tl.max(waiting.to(tl.int32), 0)
    while left > 0:
        slot = cells + place
        # Those that wait no more compare with what no slot has: that changes nothing.
        found = tl.atomic_cas(slot, tl.where(waiting, 0, -1).to(tl.int64), tl.full(place.shape, _LOCKED, tl.int64))
        mine = waiting & (found == 0)
        tl.store(slot + slots, name, mask=mine)
        tl.debug_barrier()
        tl.atomic_xchg(slot, owner, mask=mine, sem="release")
        alike = waiting & (found == owner)
        theirs = tl.load(slot + slots, mask=alike, other=0, volatile=True)
        hit = mine | (alike & (theirs == name))
        tl.atomic_add(slot + 2 * slots, count, mask=hit, sem="relaxed")
        fresh += mine.to(tl.int64)
        waiting = waiting & (hit == 0)
        # A locked slot is looked at again: it may be about to become theirs.
        place = tl.where(waiting & (found != _LOCKED), (place + step) & (slots - 1), place)
        left = tl.max(waiting.to(tl.int32), 0)
    return tl.sum(fresh, 0)


@triton.jit
def _values(x, base, known, k, length, inner, KIND: tl.constexpr, ALONG: tl.constexpr):
    """A tile's values as float32. Where there is nothing stands the lowest finite value of its type, which is no larger
    than the second of any row."""
    if ALONG == 0:
        place = x + base[None, :] + k.to(tl.int64)[:, None] * inner
        there = known[None, :] & (k < length)[:, None]
    else:
        place = x + base[:, None] + k.to(tl.int64)[None, :] * inner
        there = known[:, None] & (k < length)[None, :]
    if KIND == _FLOAT32:
        return tl.load(place, mask=there, other=_LOWEST).to(tl.float32, bitcast=True)
    if KIND == _BFLOAT16:
        return (tl.load(place, mask=there, other=_LOWEST >> 16).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return tl.load(place, mask=there, other=-65504.0).to(tl.float32)


@triton.jit
def _of_both(best, next_best, furthest, other_best, other_next, other_furthest):
    """The two largest of four, and the greatest magnitude, or NaN where one is NaN."""
    second = tl.maximum(tl.minimum(best, other_best), tl.maximum(next_best, other_next))
    furthest = tl.maximum(furthest, other_furthest, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(best, other_best), second, furthest
