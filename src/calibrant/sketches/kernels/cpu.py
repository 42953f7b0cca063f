"""The kernels of `reference`, compiled by numba: the same names, arguments and results.

Compiled at their first call for the processor at hand, and kept on disk; they release the GIL and start no threads.
How they come near the speed of memory: it is walked in blocks that stay in the cache, and each block is read more than
once, by loops that the compiler turns into vector instructions. Only the update of the table goes element by element,
and of it little is left: one load, one add, one store, since count and position share a packed cell.

Two habits of this file are for the compiler. Integers are cast at every step, as numba widens int32 to int64,
which would halve the vectors. Loops run over unsigned indices of whole arrays, `for i in _range(start, stop)`: signed
ones would be checked for counting from the end, and slices counted as references.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from calibrant.sketches.cells import I32, I64
from calibrant.sketches.kernels.harvest import harvest, join, load
from calibrant.sketches.kernels.jit import compiled
from calibrant.sketches.kernels.reference import HIGHEST, LOWEST, NAN, NEG_INF, POS_INF, U64, ZEROS
from calibrant.sketches.kernels.rows import top_two

__all__ = ["COPIES", "count", "harvest", "join", "load", "top_two"]

BLOCK = 8192  # elements: 32 KiB, so that a block and the busy part of a table stay in the first two caches
WIDTH = 256  # elements side by side where channels take turns: few channels are repeated until they fill it
COPIES = 4  # of the table: in a run of equal values each add would else wait for the one before to be stored

_TOP, _BOTTOM = np.int32(2**31 - 1), np.int32(-(2**31))  # _BOTTOM is also the bits of -0.0
_MAGNITUDE, _ALL, _SIGN = np.int32(0x7FFFFFFF), np.int32(-1), np.int32(31)
_ZERO, _NEGATIVE_ZERO = np.int32(0), np.int32(-1)  # as ordered bits
_FIRST, _SINGLE = cast(int, np.int64(0)), cast(int, np.int64(1))  # of a type, where a literal would be compiled anew
_COUNT, _BYTE, _EIGHT = np.uint64(1 << 32), np.uint32(255), np.uint32(8)


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
    row = inner * lanes
    padded = blocks * lanes != channels
    step = max(BLOCK // lanes, 1) * lanes
    room = np.empty(step if padded else 0, np.int32)
    scratch = np.empty((2, max(WIDTH, lanes)), np.int32)
    at, counted = _FIRST, 0
    while at < bits.size:
        place, width, start, stop, block = base + at, lanes, at, min(at + step, bits.size), bits
        at = stop
        if padded:  # the block is of one row, and its padding is left out
            at = stop = min(stop, start + row - place % row)
            width = min(lanes, channels - place // row % blocks * lanes)
            if width < lanes:
                start, stop, block = _FIRST, _without_padding(bits, start, stop, lanes, width, room), room
        where = (place, row, blocks, lanes, width)
        counted += stop - start
        least, most, zeros = _scan(block, start, stop)
        finite = bool(least >= LOWEST and most <= HIGHEST)
        if not finite:
            _classify(block, start, stop, where, ends, hits, totals)
        else:
            totals[ZEROS] += zeros
            if channels == 1:
                _widen(block, start, stop, least, most, _FIRST, ends, hits)
            elif lanes == 1:
                _rows(block, start, stop, where, ends, hits)
            else:
                _lanes(block, start, stop, where, ends, hits, scratch)
        if len(tables):
            _tabulate(block, start, stop, finite, tables, mantissa_bits)
        if len(channel_tables):
            _tabulate_channels(block, start, stop, where, finite, channel_tables, channel_mantissa_bits)
    return counted


@compiled
def _range(start: int, stop: int) -> Any:
    return range(np.uint64(start), np.uint64(stop))


@compiled
def _ordered(bits: np.int32) -> np.int32:
    return np.int32(bits ^ np.int32(np.int32(bits >> _SIGN) & _MAGNITUDE))


@compiled
def _scan(bits: I32, start: int, stop: int) -> tuple[np.int32, np.int32, np.int32]:
    """Ordered bits of the least and the most, and how many are 0.0 or -0.0."""
    least, most, zeros = _TOP, _BOTTOM, _ZERO
    for i in _range(start, stop):
        key = _ordered(bits[i])
        least, most = min(least, key), max(most, key)
        zeros = np.int32(zeros + np.int32(np.int32(bits[i] & _MAGNITUDE) == _ZERO))
    return least, most, zeros


@compiled
def _least_most(bits: I32, start: int, stop: int) -> tuple[np.int32, np.int32]:
    least, most = _TOP, _BOTTOM
    for i in _range(start, stop):
        key = _ordered(bits[i])
        least, most = min(least, key), max(most, key)
    return least, most


@compiled
def _same(bits: I32, start: int, stop: int, wanted: np.int32, mask: np.int32) -> np.int32:
    """How many elements have these bits, under the mask."""
    same = _ZERO
    for i in _range(start, stop):
        same = np.int32(same + np.int32(np.int32(bits[i] & mask) == wanted))
    return same


@compiled
def _repeats(bits: I32, start: int, stop: int) -> np.int32:
    """How many elements equal the one before."""
    same = _ZERO
    for i in _range(start + 1, stop):
        same = np.int32(same + np.int32(bits[i] == bits[i - np.uint64(1)]))
    return same


@compiled
def _widen(bits: I32, start: int, stop: int, least: np.int32, most: np.int32, c: int, ends: I32, hits: I64) -> None:
    """Channel c has these finite elements, from least to most."""
    for end, key in ((0, least), (1, most)):
        key = _ZERO if key == _NEGATIVE_ZERO else key
        if (key < ends[0, c]) if end == 0 else (key > ends[1, c]):
            ends[end, c], hits[end, c] = key, 0
        if key == ends[end, c]:
            hits[end, c] += _same(bits, start, stop, _ordered(key), _MAGNITUDE if key == _ZERO else _ALL)


@compiled
def _rows(bits: I32, start: int, stop: int, where: tuple[int, ...], ends: I32, hits: I64) -> None:
    """Extremes where each row is of one channel."""
    place, row, blocks, _, _ = where
    c, after = place // row % blocks, start + row - place % row
    while start < stop:
        after = min(after, stop)
        least, most = _least_most(bits, start, after)
        _widen(bits, start, after, least, most, c, ends, hits)
        c, start, after = c + 1 if c + 1 < blocks else 0, after, after + row


@compiled
def _lanes(bits: I32, start: int, stop: int, where: tuple[int, ...], ends: I32, hits: I64, scratch: I32) -> None:
    """Extremes where channels take turns: the rows are (row // lanes, width)."""
    place, row, blocks, lanes, width = where
    block, after = place // row % blocks, start + (row - place % row) // lanes * width
    while start < stop:
        after = min(after, stop)
        _interleaved(bits, start, after, width, block * lanes, ends, hits, scratch)
        block, start, after = block + 1 if block + 1 < blocks else 0, after, after + row // lanes * width


@compiled
def _interleaved(bits: I32, start: int, stop: int, width: int, first: int, ends: I32, hits: I64, scratch: I32) -> None:
    """Extremes of `width` channels from `first` on, which take turns."""
    wide = width * max(min(WIDTH, (stop - start) // 4) // width, 1)
    scratch[0, :wide], scratch[1, :wide] = _TOP, _BOTTOM
    for at in range(start, stop, wide):
        _least_most_into(bits, at, min(at + wide, stop), scratch)
    for at in range(width, wide, width):
        for c in _range(0, width):
            scratch[0, c] = min(scratch[0, c], scratch[0, c + np.uint64(at)])
            scratch[1, c] = max(scratch[1, c], scratch[1, c + np.uint64(at)])
    lo_reached, hi_reached = False, False
    for c in range(width):
        low, high = scratch[0, c], scratch[1, c]
        low, high = _ZERO if low == _NEGATIVE_ZERO else low, _ZERO if high == _NEGATIVE_ZERO else high
        if low < ends[0, first + c]:
            ends[0, first + c], hits[0, first + c] = low, 0
        if high > ends[1, first + c]:
            ends[1, first + c], hits[1, first + c] = high, 0
        lo_reached |= low == ends[0, first + c]
        hi_reached |= high == ends[1, first + c]
    if lo_reached:
        _count_equal(bits, start, stop, width, wide, first, ends[0], hits[0], scratch)
    if hi_reached:
        _count_equal(bits, start, stop, width, wide, first, ends[1], hits[1], scratch)


@compiled
def _count_equal(
    bits: I32, start: int, stop: int, width: int, wide: int, first: int, keys: I32, hits: I64, scratch: I32
) -> None:
    """For each of the channels, add to its hits the elements that equal its key."""
    for at in range(0, wide, width):
        for c in range(width):
            scratch[0, at + c], scratch[1, at + c] = _ordered(keys[first + c]), _ZERO
    for at in range(start, stop, wide):
        _same_into(bits, at, min(at + wide, stop), scratch)
    for at in range(0, wide, width):
        for c in range(width):
            hits[first + c] += scratch[1, at + c]


@compiled
def _least_most_into(bits: I32, start: int, stop: int, scratch: I32) -> None:
    for i in _range(0, stop - start):
        key = _ordered(bits[np.uint64(start) + i])
        scratch[0, i] = min(scratch[0, i], key)
        scratch[1, i] = max(scratch[1, i], key)


@compiled
def _same_into(bits: I32, start: int, stop: int, scratch: I32) -> None:
    for i in _range(0, stop - start):
        value = bits[np.uint64(start) + i]
        value = _ZERO if value == _BOTTOM else value
        scratch[1, i] = np.int32(scratch[1, i] + np.int32(value == scratch[0, i]))


@compiled
def _classify(bits: I32, start: int, stop: int, where: tuple[int, ...], ends: I32, hits: I64, totals: I64) -> None:
    """Extremes and totals of a block that holds NaN or Inf, element by element."""
    place, row, blocks, lanes, width = where
    block, lane, after = place // row % blocks, 0, start + (row - place % row) // lanes * width
    for i in range(start, stop):
        if i == after:
            block, after = block + 1 if block + 1 < blocks else 0, after + row // lanes * width
        key = _ordered(bits[i])
        if LOWEST <= key <= HIGHEST:
            totals[ZEROS] += key in (_ZERO, _NEGATIVE_ZERO)
            _widen(bits, i, i + 1, key, key, block * lanes + lane, ends, hits)
        elif key == HIGHEST + 1:
            totals[POS_INF] += 1
        elif key == LOWEST - 1:
            totals[NEG_INF] += 1
        else:
            totals[NAN] += 1
        lane = lane + 1 if lane + 1 < width else 0


@compiled
def _without_padding(bits: I32, start: int, stop: int, lanes: int, width: int, room: I32) -> int:
    """Copy the first `width` of every `lanes` elements to the room; how many they are."""
    rows = (stop - start) // lanes
    for r in range(rows):
        for lane in _range(0, width):
            room[np.uint64(r * width) + lane] = bits[np.uint64(start + r * lanes) + lane]
    return rows * width


@compiled
def _tabulate(bits: I32, start: int, stop: int, finite: bool, tables: U64, mantissa_bits: int) -> None:
    """Add a block to a table, to its copies in turn where values repeat."""
    if not finite:
        _add_interleaved(bits, start, stop, _SINGLE, tables, _FIRST, mantissa_bits)
        return
    below_zero = 1 << (8 + mantissa_bits)  # the cell of the negative values nearest to 0, and for a moment of -0.0
    before = tables[:, below_zero].sum()
    in_turn = len(tables) == COPIES and _repeats(bits, start, stop) > (stop - start) >> 4
    _add(bits, start, stop, tables, _SINGLE if in_turn else _FIRST, mantissa_bits)
    if tables[:, below_zero].sum() != before:
        negative_zeros = np.uint64(_same(bits, start, stop, _BOTTOM, _ALL)) * _COUNT
        tables[0, below_zero] -= negative_zeros
        tables[0, 0] += negative_zeros


@compiled
def _add(bits: I32, start: int, stop: int, tables: U64, turn: int, mantissa_bits: int) -> None:
    """Add finite elements to table 0, or with turn 1 to tables 0 to 3 in turn.

    Four at a time, so that the loads of the next elements need not wait for these stores."""
    shift, rest = np.uint32(15 - mantissa_bits), stop - (stop - start) % 4
    one, two, three, four = tables[0], tables[turn], tables[2 * turn], tables[3 * turn]
    for at in range(start, rest, 4):
        i = np.uint64(at)
        a, b = np.uint32(bits[i]), np.uint32(bits[i + np.uint64(1)])
        c, d = np.uint32(bits[i + np.uint64(2)]), np.uint32(bits[i + np.uint64(3)])
        a, b, c, d = np.uint32(a >> shift), np.uint32(b >> shift), np.uint32(c >> shift), np.uint32(d >> shift)
        one[np.uint32(a >> _EIGHT)] += _COUNT + np.uint64(a & _BYTE)
        two[np.uint32(b >> _EIGHT)] += _COUNT + np.uint64(b & _BYTE)
        three[np.uint32(c >> _EIGHT)] += _COUNT + np.uint64(c & _BYTE)
        four[np.uint32(d >> _EIGHT)] += _COUNT + np.uint64(d & _BYTE)
    for i in _range(rest, stop):
        a = np.uint32(np.uint32(bits[i]) >> shift)
        one[np.uint32(a >> _EIGHT)] += _COUNT + np.uint64(a & _BYTE)


@compiled
def _tabulate_channels(
    bits: I32, start: int, stop: int, where: tuple[int, ...], finite: bool, tables: U64, mantissa_bits: int
) -> None:
    """Add a block to the tables of its channels."""
    place, row, blocks, lanes, width = where
    block, after = place // row % blocks, start + (row - place % row) // lanes * width
    while start < stop:
        after = min(after, stop)
        if lanes == 1:
            _tabulate(bits, start, after, finite, tables[block : block + 1], mantissa_bits)
        else:
            _add_interleaved(bits, start, after, width, tables, block * lanes, mantissa_bits)
        block, start, after = block + 1 if block + 1 < blocks else 0, after, after + row // lanes * width


@compiled
def _add_interleaved(bits: I32, start: int, stop: int, width: int, tables: U64, first: int, mantissa_bits: int) -> None:
    """Add elements to the tables of `width` channels from `first` on, which take turns; NaN and Inf are left out."""
    shift = np.uint32(15 - mantissa_bits)
    for at in range(start, stop, width):
        for lane in _range(0, width):
            value = bits[np.uint64(at) + lane]
            value = _ZERO if value == _BOTTOM else value
            if np.int32(value & _MAGNITUDE) <= HIGHEST:
                a = np.uint32(np.uint32(value) >> shift)
                tables[np.uint64(first) + lane, np.uint32(a >> _EIGHT)] += _COUNT + np.uint64(a & _BYTE)
