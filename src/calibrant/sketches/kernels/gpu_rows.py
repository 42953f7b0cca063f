"""The kernels for margins in Triton's plain language: the two largest of each row, and a table that counts such pairs.

A table is int64 words: a head of SHIFT, CELLS, SEEN and twice a word for each channel, rows whose two largest are equal
and rows of one value; then three words for each of its slots, first all owners, then all names, then all counts.
A cell is named by its channel and by its two keys >> SHIFT, which are packed into one word that is never 0. It is at a
place that its name decides, or where that is taken by another, some steps further. An owner is 0 where the slot is
free, else the channel + 1. Who takes a slot writes the owner, then the name: where there is no name yet, others wait
for it. So all zeros are an empty table.
"""

# mypy: disable-error-code="misc,no-untyped-def,no-untyped-call,untyped-decorator"
# Triton's language looks like Python, but its functions take and give what its compiler knows.

from __future__ import annotations

import triton
import triton.language as tl

from calibrant.sketches.kernels import gpu_portable as portable
from calibrant.sketches.kernels import gpu_words

SHIFT, CELLS, SEEN, HEAD = range(4)
FIRST_OWNER = 1
NOT_NAMED = -(2**63) + 2**31 - 1  # two keys of which the first is lower, packed: no cell has these

_INFINITY = tl.constexpr(float("inf"))
_LOWEST = tl.constexpr(0xFF7FFFFF - 2**32)  # bits of the lowest finite value
_FLOAT32, _BFLOAT16 = tl.constexpr(gpu_words.FLOAT32), tl.constexpr(gpu_words.BFLOAT16)
_SHIFT, _CELLS, _SEEN, _HEAD = tl.constexpr(SHIFT), tl.constexpr(CELLS), tl.constexpr(SEEN), tl.constexpr(HEAD)
_FIRST_OWNER, _NOT_NAMED = tl.constexpr(FIRST_OWNER), tl.constexpr(NOT_NAMED)
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
def tally(pairs, owners, rows, alone, tables, half, channels, slots, TILE: tl.constexpr, OTHERS: tl.constexpr):
    """Count what `top_two` found into table number `half[0]` of `tables`, which has room for so many cells more.

    alone: whether rows are of one value. slots: a power of two; channels: for which the table has words in its head.
    OTHERS: with so many rows at once those of a tile are compared."""
    table = tables + tl.load(half).to(tl.int64) * (_HEAD + 2 * channels + 3 * slots)
    shift, first = tl.load(table + _SHIFT).to(tl.int32), tl.program_id(0) * TILE
    row = first + tl.arange(0, TILE)
    channel, name = _named(pairs, owners, row, rows, shift)
    # Often many rows are of one cell, and would queue up to add to it: here the first of them adds for all.
    alike, start = tl.zeros([TILE, OTHERS], tl.int32), rows * 0  # and above 16 bits those that are earlier
    while start < TILE:
        other = first + start + tl.arange(0, OTHERS)
        their_channel, their_name = _named(pairs, owners, other, rows, shift)
        same = (channel[:, None] == their_channel[None, :]) & (name[:, None] == their_name[None, :])
        alike += tl.where(same, tl.where(other[None, :] < row[:, None], 65537, 1), 0)
        start += OTHERS
    count = tl.sum(alike, 1).to(tl.int64)
    chosen, tied = (channel >= 0) & (count < 65536), name == 0
    channel = tl.where(chosen, channel, 0)
    tl.atomic_add(table + _HEAD + alone * channels + channel, count, mask=chosen & tied, sem="relaxed")
    cells, owner = table + _HEAD + 2 * channels, channel.to(tl.int64) + _FIRST_OWNER
    fresh = _add(cells, slots, owner, name, count, chosen & (tied == 0))
    tl.atomic_add(table + _CELLS, fresh, sem="relaxed")
    tl.atomic_add(table + _SEEN, tl.sum((row < rows).to(tl.int64), 0), sem="relaxed")


@triton.jit
def _named(pairs, owners, row, rows, shift):
    """Channels of rows, or -1 where they do not count; and names of their cells, or 0 of a tie."""
    there = row < rows
    channel = tl.load(owners + row, mask=there, other=-1)
    top = tl.load(pairs + row.to(tl.int64) * 2, mask=there, other=0)
    second = tl.load(pairs + row.to(tl.int64) * 2 + 1, mask=there, other=0)
    return channel, tl.where(top == second, 0, _name(top, second, shift))


@triton.jit
def fit(descriptions, tables, spare, words, limit, most_shift, TABLES: tl.constexpr, TILE: tl.constexpr):
    """Make the keys of each table coarser until it has no more than `limit` cells, or cannot become coarser.

    descriptions (tables, 3): the table's address, how many words its head has, and how many slots it has; TABLES: no
    fewer, a power of two. spare: a table without a head and with as many slots as any, all zeros, and left so.
    words (3): of int64, zeros at first. All programs work on one table at a time, so they must be at work together."""
    number = tl.arange(0, TABLES)
    table = tl.load(descriptions + number * 3, mask=number < tables, other=0).to(tl.pointer_type(tl.int64))
    cells = tl.load(table + _CELLS, mask=number < tables, other=0)
    shift = tl.load(table + _SHIFT, mask=number < tables, other=0)
    # No program sees what another one changes: changes begin when all have met.
    if tl.max(((cells > limit) & (shift < most_shift)).to(tl.int32), 0) > 0:
        _fit(descriptions, tables, spare, words, limit, most_shift, TILE)


@triton.jit
def _fit(descriptions, tables, spare, words, limit, most_shift, TILE: tl.constexpr):
    members = tl.num_programs(0)
    goal = tl.load(words, volatile=True) // members * members  # in each launch all have met equally often
    seen, seen_again = tl.load(words + 1, volatile=True), tl.load(words + 2, volatile=True)
    number = tables * 0
    while number < tables:
        table = tl.load(descriptions + number * 3).to(tl.pointer_type(tl.int64))
        own = table + tl.load(descriptions + number * 3 + 1)
        slots = tl.load(descriptions + number * 3 + 2)
        cells, shift = tl.load(table + _CELLS, volatile=True), tl.load(table + _SHIFT, volatile=True)
        while (cells > limit) & (shift < most_shift):
            goal = _meet(words, goal)
            tl.atomic_add(words + 1, _move(own, spare, slots, 1, TILE), sem="relaxed")
            goal = _meet(words, goal)
            moved = tl.load(words + 1, volatile=True)
            again = ((moved - seen > limit) & (shift + 1 < most_shift)).to(tl.int32)
            tl.atomic_add(words + 2, _move(spare, own, slots, again, TILE), sem="relaxed")
            goal = _meet(words, goal)
            moved_again = tl.load(words + 2, volatile=True)
            cells, shift = moved_again - seen_again, shift + 1 + again
            seen, seen_again = moved, moved_again
            if tl.program_id(0) == 0:
                tl.store(table + _CELLS, cells)
                tl.store(table + _SHIFT, shift)
        number += 1


@triton.jit
def _meet(arrivals, goal):
    """Wait until all programs are here. goal: of how many arrivals that was so the last time; return the next."""
    goal += tl.num_programs(0)
    tl.debug_barrier()
    arrived = tl.atomic_add(arrivals, 1, sem="acq_rel") + 1
    while arrived < goal:
        arrived = tl.load(arrivals, volatile=True)
    tl.debug_barrier()
    return goal


@triton.jit
def _move(cells, to, slots, coarser, TILE: tl.constexpr):
    """Move a program's share of cells to another table, their keys coarser by so many bits; how many are new there."""
    moved, start = slots * 0, slots * 0 + tl.program_id(0) * TILE
    while start < slots:
        place = start + tl.arange(0, TILE)
        owner = tl.load(cells + place, cache_modifier=".cg")  # what atomics wrote, which went past the first cache
        name = tl.load(cells + slots + place, cache_modifier=".cg")
        count = tl.load(cells + 2 * slots + place, cache_modifier=".cg")
        nothing = tl.zeros([TILE], tl.int64)
        tl.debug_barrier()  # another thread than the one that reads a word may be the one that empties it
        for column in tl.static_range(3):
            tl.store(cells + column * slots + place, nothing)
        keys = name ^ _NOT_NAMED
        name = _name((keys >> 32).to(tl.int32), keys.to(tl.int32), coarser)
        moved += _add(to, slots, owner, name, count, owner > 0)
        start += tl.num_programs(0) * TILE
    return moved


@triton.jit
def _name(top, second, shift):
    return (((top >> shift).to(tl.int64) << 32) | ((second >> shift).to(tl.int64) & _LOW_HALF)) ^ _NOT_NAMED


@triton.jit
def _add(cells, slots, owner, name, count, waiting):
    """Add counts to cells, of those that are `waiting`; return how many cells are new."""
    mixed = name * -7046029254386353131 + owner * -4658895280553007687
    mixed = (mixed ^ ((mixed >> 32) & _LOW_HALF)) * -7723592293110705685
    place, step = (mixed >> 24) & (slots - 1), ((mixed >> 44) & (slots - 1)) | 1
    fresh, idle = owner * 0, (tl.program_id(0) * place.shape[0] + tl.arange(0, place.shape[0])) & (slots - 1)
    left = tl.max(waiting.to(tl.int32), 0)
    while left > 0:
        # Those that wait no more compare with what no slot has, each elsewhere: that changes nothing and delays nobody.
        slot = cells + tl.where(waiting, place, idle)
        found = tl.atomic_cas(slot, tl.where(waiting, 0, -1).to(tl.int64), owner, sem="relaxed")
        mine, alike = waiting & (found == 0), waiting & (found == owner)
        tl.store(slot + slots, name, mask=mine)
        theirs = tl.load(slot + slots, mask=alike, other=0, volatile=True)
        hit = mine | (alike & (theirs == name))
        tl.atomic_add(slot + 2 * slots, count, mask=hit, sem="relaxed")
        fresh += mine.to(tl.int64)
        waiting = waiting & (hit == 0)
        not_named = alike & (theirs == 0)
        place = tl.where(waiting & (not_named == 0), (place + step) & (slots - 1), place)
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
