"""The kernels of `reference`, compiled by numba: the same names, arguments and results.

Compiled at their first call for the processor at hand, and kept on disk; they release the GIL and start no threads.

How they come near the speed of memory: it is walked in blocks that stay in the cache, and `scan` reads a block once,
in vectors: extremes and zeros lane by lane, and the words of all that is not zero squeezed together. So zeros, half of
what a ReLU gives, never reach the table, where each would wait for the one before to be stored; and of every other
element no more is left to do than one load, one add and one store. `scan` and `equal` are built from LLVM's vectors
by hand, since in a loop of numba's neither would sixteen accumulators stay in registers nor could vectors be squeezed.

Integers are cast at every step, as numba widens int32 to int64. Loops run over unsigned indices of whole arrays,
`for i in unsigned(start, stop)`: signed ones would be checked for counting from the end.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numba import carray

from calibrant.sketches.cells import I32, I64
from calibrant.sketches.kernels.harvest import harvest, join, load
from calibrant.sketches.kernels.jit import borrowing, compiled
from calibrant.sketches.kernels.ordered import BOTTOM, MAGNITUDE, TOP, ZERO, key, ordered, unsigned
from calibrant.sketches.kernels.reference import HIGHEST, LOWEST, MARK, NAN, NEG_INF, POS_INF, U64, ZEROS
from calibrant.sketches.kernels.rows import top_two
from calibrant.sketches.kernels.vectors import (
    AT_HIGH,
    AT_LOW,
    CHANNEL,
    EDGE,
    GREATEST,
    HIGH,
    KINDS,
    LEAST,
    LOW,
    NONE,
    U32,
    UNSIGNED,
    V,
    equal,
    pointer,
    prefetch,
    scan,
)

__all__ = ["count", "count_all", "harvest", "join", "load", "top_two"]

BLOCK = 8192  # elements: 32 KiB, so that a block, its words and the busy part of a table stay in the first two caches
ROWS, MOST = 64, 1 << 16  # where there are more channels than lanes in a vector: rows of a block, and its elements
BESIDE = 8  # channels whose turns come together: a cell that was just written would have to be waited for
AHEAD = 8  # words that are added while a vector comes into the cache: half of them, where half is zero

_LAST_INF = np.int32(-0x800000)  # of the bits with a sign, those of -Inf; above it NaN
_MARK, _EIGHT, _MARKED = np.uint32(MARK), np.uint32(8), np.uint64(MARK >> 8)  # of a word, see `reference.count`
_FIRST = cast(int, np.int64(0))  # of a type, where a literal would be compiled anew


@compiled
def count(
    bits: I32,
    base: int,
    blocks: int,
    inner: int,
    lanes: int,
    channels: int,
    ends: I32,
    hits: I64,
    totals: I64,
    tables: U64,
    mantissa_bits: int,
    channel_tables: U64,
    channel_mantissa_bits: int,
) -> int:
    """See `reference.count`."""
    row, shift = inner * lanes, 15 - mantissa_bits
    step = max((BLOCK if lanes <= V else max(BLOCK, min(ROWS * lanes, MOST))) // lanes, 1) * lanes
    found, room = np.empty((KINDS, _vectors(lanes) * V), np.int32), np.empty(step + V, np.uint32)
    fine, words = 15 - channel_mantissa_bits, np.empty(step if channel_tables.size else 0, np.uint32)
    cells = tables.reshape(-1)
    at, counted, planned = _FIRST, _FIRST, _FIRST
    while at < bits.size:
        stop = min(at + step, bits.size)
        kept, zeros = _FIRST, totals[ZEROS]
        while at < stop:  # stretches: each is of one row, or all of the block where no row matters
            block = (base + at) // row % blocks
            after = stop if blocks == 1 else min(stop, at + row - (base + at) % row)
            first, width = block * lanes, min(lanes, channels - block * lanes)
            if width != planned:
                planned = _plan(found, lanes, width)
            more = _stretch(bits, at, after, lanes, first, ends, hits, totals, found, room, kept, shift)
            finite = more >= 0
            if not finite:
                more = _one_by_one(bits, at, after, lanes, width, first, ends, hits, totals, room, kept, shift)
            if len(words) and finite:
                _tabulate_channels(bits, at, after, lanes, width, first, channel_tables, fine, words)
            elif len(words):
                _tabulate_finite(bits, at, after, lanes, width, first, channel_tables, fine)
            counted += (after - at) // lanes * width
            kept, at = more, after
        if cells.size:
            cells[0] += np.uint64(MARK) * np.uint64(totals[ZEROS] - zeros)
            _tabulate(room, kept, cells, bits, at)
    return counted


@compiled
def count_all(tensors: I64, tallies: I64) -> None:
    """See `reference.count_all`."""
    for i in range(len(tensors)):
        address, size, blocks, inner, lanes, channels = tensors[i]
        counted, ends, hits, totals, table, columns, mantissa_bits = tallies[i, :7]
        channel_table, channel_columns, channel_mantissa_bits = tallies[i, 7:]
        carray(pointer(counted, np.int64), (1,))[0] += count(
            carray(pointer(address, np.int32), (size,)),
            _FIRST,
            blocks,
            inner,
            lanes,
            channels,
            carray(pointer(ends, np.int32), (2, channels)),
            carray(pointer(hits, np.int64), (2, channels)),
            carray(pointer(totals, np.int64), (4,)),
            carray(pointer(table, np.uint64), (1 << (9 + mantissa_bits), columns)),
            mantissa_bits,
            carray(pointer(channel_table, np.uint64), (1 << (9 + channel_mantissa_bits), channel_columns)),
            channel_mantissa_bits,
        )


@compiled
def _vectors(lanes: int) -> int:
    """How many there are in a turn, after which the channels come around again."""
    return -(-lanes // V) if lanes > V else lanes // min(lanes & -lanes, V)


@compiled
def _place(vector: int, lanes: int) -> int:
    """Where a vector begins in its turn: the last one early where the turn would end before it does."""
    return vector * V if lanes <= V else min(vector * V, lanes - V)


@borrowing
def _plan(found: I32, lanes: int, width: int) -> int:
    """Write down the channel of every lane, and which are not to be counted: those that the vector before has counted,
    and those beyond the width."""
    for i in range(found.shape[1]):
        place = _place(i // V, lanes) + i % V
        found[CHANNEL, i] = place % lanes if place % lanes < width and place >= i // V * V else -1
    return width


@borrowing
def _stretch(
    bits: I32,
    start: int,
    stop: int,
    lanes: int,
    first: int,
    ends: I32,
    hits: I64,
    totals: I64,
    found: I32,
    room: U32,
    kept: int,
    shift: int,
) -> int:
    """Count extremes and zeros of channels `first` and on, which take turns. How many words the room then holds;
    -1 where an element is not finite, and then nothing was counted."""
    turn = lanes if lanes > V else found.shape[1]
    turns, rest = (stop - start) // turn, (stop - start) % turn
    for i in unsigned(0, found.shape[1]):
        found[LEAST, i], found[GREATEST, i], found[UNSIGNED, i] = TOP, BOTTOM, ZERO
        seen = turns + (1 if i < rest else 0)
        found[NONE, i] = seen if found[CHANNEL, i] >= ZERO else 0
    for i in range(rest):
        found[EDGE, i] = bits[stop - rest + i]
    for i in range(rest, -(-rest // V) * V):
        found[EDGE, i] = found[EDGE, i - lanes]  # of the same channel, so that it is no new extreme
    for vector in range(found.shape[1] // V):
        at = _place(vector, lanes)
        if turns:
            kept = scan(bits, start + at, turn, turns, V, found, vector, room, kept, shift)
        if at < rest:
            kept = scan(found[EDGE], at, V, 1, rest - at, found, vector, room, kept, shift)
    if not _ranges(found):
        return -1
    if _hits(found, first, ends, hits, totals):
        for vector in range(found.shape[1] // V):
            at = _place(vector, lanes)
            if turns:
                equal(bits, start + at, turn, turns, V, found, vector)
            if at < rest:
                equal(found[EDGE], at, V, 1, rest - at, found, vector)
        _more_hits(found, first, hits)
    return kept


@borrowing
def _ranges(found: I32) -> bool:
    """Make the extremes that were found keys, in LOW and HIGH. False where one of them is not finite."""
    infinite = ZERO
    for i in unsigned(0, found.shape[1]):
        least, greatest, signed = found[LEAST, i], found[GREATEST, i], found[UNSIGNED, i]
        found[LOW, i] = key(signed if signed < ZERO else least)
        found[HIGH, i] = greatest if (least & greatest) >= ZERO else key(least)
        beyond = (greatest > HIGHEST) | ((signed >= _LAST_INF) & (signed < ZERO))
        infinite |= np.int32(beyond) & np.int32(found[CHANNEL, i] >= ZERO)
    return bool(infinite == ZERO)


@borrowing
def _hits(found: I32, first: int, ends: I32, hits: I64, totals: I64) -> bool:
    """Extend the channels' ends; count zeros, also as ends. Whether there are others to count: their bits are then in
    LOW and HIGH, elsewhere those of a NaN."""
    for i in unsigned(0, found.shape[1]):
        if found[CHANNEL, i] >= ZERO:
            c = np.uint64(first + found[CHANNEL, i])
            if found[LOW, i] < ends[0, c]:
                ends[0, c], hits[0, c] = found[LOW, i], 0
            if found[HIGH, i] > ends[1, c]:
                ends[1, c], hits[1, c] = found[HIGH, i], 0
    others, zeros = ZERO, np.int64(0)
    for i in unsigned(0, found.shape[1]):
        low, high, c = found[LOW, i], found[HIGH, i], np.uint64(first + max(found[CHANNEL, i], ZERO))
        counted = found[CHANNEL, i] >= ZERO
        is_low, is_high = counted & (low == ends[0, c]), counted & (high == ends[1, c])
        none = np.int64(found[NONE, i])
        zeros += none
        hits[0, c] += none if is_low & (low == ZERO) else _FIRST
        hits[1, c] += none if is_high & (high == ZERO) else _FIRST
        found[LOW, i] = ordered(low) if is_low & (low != ZERO) else TOP
        found[HIGH, i] = high if is_high & (high > ZERO) else ordered(high) if is_high & (high < ZERO) else TOP
        found[AT_LOW, i] = found[AT_HIGH, i] = ZERO
        others |= np.int32(found[LOW, i] != TOP) | np.int32(found[HIGH, i] != TOP)
    totals[ZEROS] += zeros
    return bool(others != ZERO)


@borrowing
def _more_hits(found: I32, first: int, hits: I64) -> None:
    """Count what `equal` has found."""
    for i in unsigned(0, found.shape[1]):
        if found[CHANNEL, i] >= ZERO:
            c = np.uint64(first + found[CHANNEL, i])
            hits[0, c] += found[AT_LOW, i]
            hits[1, c] += found[AT_HIGH, i]


@borrowing
def _one_by_one(
    bits: I32,
    start: int,
    stop: int,
    lanes: int,
    width: int,
    first: int,
    ends: I32,
    hits: I64,
    totals: I64,
    room: U32,
    kept: int,
    shift: int,
) -> int:
    """What `_stretch` does, and the other totals, where a stretch holds NaN or Inf."""
    for i in range(start, stop):
        c, here = first + (i - start) % lanes, key(bits[i])
        if c >= first + width:
            continue
        if LOWEST <= here <= HIGHEST:
            if here < ends[0, c]:
                ends[0, c], hits[0, c] = here, 0
            if here > ends[1, c]:
                ends[1, c], hits[1, c] = here, 0
            hits[0, c] += here == ends[0, c]
            hits[1, c] += here == ends[1, c]
            totals[ZEROS] += here == ZERO
            room[kept] = _word(bits[i], shift)
            kept += here != ZERO
        elif here == HIGHEST + 1:
            totals[POS_INF] += 1
        elif here == LOWEST - 1:
            totals[NEG_INF] += 1
        else:
            totals[NAN] += 1
    return kept


@compiled
def _word(bits: np.int32, shift: int) -> np.uint32:
    return np.uint32(np.uint32(np.uint32(bits) >> np.uint32(shift)) | _MARK)


@borrowing
def _tabulate(room: U32, kept: int, cells: U64, bits: I32, upcoming: int) -> None:
    """Add words to a table, and meanwhile let the elements from `upcoming` on come into the cache."""
    for group in range(kept // AHEAD):
        prefetch(bits, upcoming + group * V)
        for i in range(AHEAD):
            word = room[np.uint64(group * AHEAD + i)]
            cells[_cell(word)] += np.uint64(word)
    for i in unsigned(kept - kept % AHEAD, kept):
        cells[_cell(room[i])] += np.uint64(room[i])


@compiled
def _cell(word: np.uint32) -> np.uint64:
    return np.uint64(word >> _EIGHT) - _MARKED


@borrowing
def _tabulate_channels(
    bits: I32, start: int, stop: int, lanes: int, width: int, first: int, tables: U64, shift: int, words: U32
) -> None:
    """Add the elements of a stretch, all of them finite, to the tables of their channels; their words in vectors."""
    for i in unsigned(start, stop):
        words[i - np.uint64(start)] = _word(ZERO if bits[i] == BOTTOM else bits[i], shift)
    whole = width - width % BESIDE if lanes % BESIDE == 0 else 0
    for lane in range(0, whole, BESIDE):
        for at in range(np.uint64(lane), np.uint64(stop - start), np.uint64(lanes)):
            for beside in unsigned(0, BESIDE):
                word = words[at + beside]
                tables[_cell(word), np.uint64(first + lane) + beside] += np.uint64(word)
    for lane in range(whole, width):
        for at in range(np.uint64(lane), np.uint64(stop - start), np.uint64(lanes)):
            tables[_cell(words[at]), np.uint64(first + lane)] += np.uint64(words[at])


@borrowing
def _tabulate_finite(
    bits: I32, start: int, stop: int, lanes: int, width: int, first: int, tables: U64, shift: int
) -> None:
    """What `_tabulate_channels` does, where a stretch holds NaN or Inf."""
    for lane in range(width):
        for at in range(start + lane, stop, lanes):
            value = bits[np.uint64(at)]
            if np.int32(value & MAGNITUDE) <= HIGHEST:
                word = _word(ZERO if value == BOTTOM else value, shift)
                tables[_cell(word), np.uint64(first + lane)] += np.uint64(word)
