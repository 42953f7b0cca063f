"""The kernels in plain numpy: slow, readable, and what the fast ones are tested against.

Values come as float32 bits (int32). "Ordered" bits are i ^ ((i >> 31) & 0x7fffffff), i with an arithmetic shift: as
integers they ascend as the floats do. -0.0 is 0.0 throughout.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.sketches.bins import split_index
from calibrant.sketches.cells import I32, I64, join_cells

F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]
ZEROS, NAN, POS_INF, NEG_INF = range(4)  # the places in `totals`
HIGHEST, LOWEST = 0x7F7FFFFF, -0x7F800000  # ordered bits of the largest and the smallest finite float32
MARK = np.uint64(1 << 31)  # of a word: see `count`
NONE_LO, NONE_HI = HIGHEST + 1, LOWEST - 1  # of +Inf and -Inf: the extremes of nothing


def ordered(bits: I32) -> I32:
    """The ordered bits, or the bits of ordered ones: the map is its own inverse."""
    return np.asarray(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF)), np.int32)


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
    """Count a stretch of a tensor's memory into extremes and tables; return how many elements it has, padding left out.

    bits: 1-d; its first element is number `base` of the memory, whose layout (blocks, inner, lanes, channels) is that
        of `Layout`; base and the number of bits are multiples of lanes.
    ends (2, channels): ordered bits of the lowest and of the highest finite value so far.
    hits (2, channels): how many elements equal them.
    totals (4,): zeros, NaN, +Inf, -Inf.
    tables (2**(9 + mantissa_bits), 1): packed cells by bits >> (23 - mantissa_bits).
    channel_tables (2**(9 + channel_mantissa_bits), channels): the same for each channel. Channels lie side by side, as
        they use the same few cells: so little memory is touched.
    No table is wanted where it has no columns. A cell is the sum of the words of its elements, and a word is
    2**31 + (bits >> (15 - mantissa_bits)): so the word of cell i without position is 2**31 + 256 i, how often that goes
    into the sum is the count, and what remains is the sum of the 8-bit positions. It remains below that word for 2**23
    elements; then `load` must be looked at.
    """
    place = np.arange(base, base + bits.size)
    channel = place // (inner * lanes) % blocks * lanes + place % lanes
    real = channel < channels
    bits, channel = bits[real], channel[real]
    values = bits.view(np.float32)
    finite = np.isfinite(values)
    totals += [(values == 0).sum(), np.isnan(values).sum(), (values == np.inf).sum(), (values == -np.inf).sum()]
    bits, channel = np.where(bits == np.int32(-(2**31)), np.int32(0), bits)[finite], channel[finite]
    for end, further in enumerate((np.minimum, np.maximum)):
        found = ends[end].copy()
        further.at(found, channel, ordered(bits))
        hits[end, found != ends[end]] = 0
        ends[end] = found
        np.add.at(hits[end], channel, ordered(bits) == found[channel])
    if tables.size:
        np.add.at(tables[:, 0], _index(bits, mantissa_bits), _words(bits, mantissa_bits))
    if channel_tables.size:
        cell = (_index(bits, channel_mantissa_bits), channel)
        np.add.at(channel_tables, cell, _words(bits, channel_mantissa_bits))
    return int(real.sum())


def count_all(tensors: I64, tallies: I64) -> None:
    """Count several tensors, each from its beginning, in memory that the caller holds.

    tensors (n, 6): the address of the bits, how many there are, and the four numbers of the layout.
    tallies (n, 10): the addresses of the number of elements counted, which is added to, and of ends, hits and totals;
        of tables, their columns and mantissa_bits; and the same of channel_tables: all as `count` has them.
    """
    for (address, size, *layout), (counted, ends, hits, totals, *tables) in zip(
        tensors.tolist(), tallies.tolist(), strict=True
    ):
        state = [_at(ends, np.int32, 2, layout[-1]), _at(hits, np.int64, 2, layout[-1]), _at(totals, np.int64, 4)]
        for table, columns, mantissa_bits in (tables[:3], tables[3:]):
            state += [_at(table, np.uint64, 1 << (9 + mantissa_bits), columns), mantissa_bits]
        _at(counted, np.int64, 1)[0] += count(_at(address, np.int32, size), 0, *layout, *state)


def harvest(tables: U64, positive: int, negative: int, elements: int) -> tuple[I32, I32, I64, I64]:
    """Empty the tables (cells, groups): group, signed key, count and sum of positions of every cell that is not empty,
    in the order of (group, key). positive, negative: so many cells of each sign, from 0 on, are looked at; the others
    are empty. elements: how many all cells hold; once so many are found, the others are empty too. Only cells that are
    not empty are written."""
    half = len(tables) // 2
    cell = np.concatenate([half + np.arange(negative)[::-1], np.arange(positive)])
    group, place = np.nonzero(tables[cell].T)
    cell = cell[place]
    counts, positions = _unpacked(tables[cell, group], cell)
    tables[cell, group] = 0
    return group.astype(np.int32), split_index(cell, half.bit_length() - 9), counts, positions


def reach(ends: I32, mantissa_bits: int) -> tuple[int, int]:
    """How many cells of each sign values between these ends (ordered bits) can be in: see `harvest`."""
    low, high = int(ends[0].min()), int(ends[1].max())
    shift = 23 - mantissa_bits
    return (high >> shift) + 1 if high >= 0 else 0, ((-1 - low) >> shift) + 1 if low < 0 else 0


def join(
    channel: I32, keys: I32, counts: I64, sums: I64, channel_b: I32, keys_b: I32, counts_b: I64, sums_b: I64
) -> tuple[I32, I32, I64, I64]:
    """The cells of both, each sorted by (channel, key) with no cell twice: sorted, and equal cells added up."""
    names, weights = join_cells(([channel, keys], [counts, sums]), ([channel_b, keys_b], [counts_b, sums_b]))
    return names[0], names[1], weights[0], weights[1]


def load(tables: U64, positive: int, negative: int) -> int:
    """Of the fullest cell of any group: how many elements in one cell could at most have brought its sum of positions
    to where it is, or its count to a 256th of where it is. 0 where all are empty. positive, negative: see `harvest`."""
    cell = np.concatenate([np.arange(positive), len(tables) // 2 + np.arange(negative)])
    place, group = np.nonzero(tables[cell])
    cell = cell[place]
    counts, positions = _unpacked(tables[cell, group], cell)
    return int(np.maximum(positions // 255 + 1, (counts >> 8) + 1).max(initial=0))


def top_two(bits: I32) -> tuple[I32, I32, NDArray[np.bool_]]:
    """Of each row of `bits` (outer, length >= 1, inner): ordered bits of the largest value and of the second largest,
    and whether all its values are finite. Rows in the order (outer, inner). The second of a row of one is the first."""
    if bits.shape[0] * bits.shape[2] == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool)
    keys = np.sort(np.where(ordered(bits) == -1, np.int32(0), ordered(bits)), axis=1)
    finite = (keys[:, 0] >= LOWEST) & (keys[:, -1] <= HIGHEST)
    second = keys[:, -2] if bits.shape[1] > 1 else keys[:, -1]
    return keys[:, -1].reshape(-1), second.reshape(-1), finite.reshape(-1)


def spread(
    ends: tuple[F64, F64], mean: F64, counts: I64, factors: F64, parts: int, mantissa_bits: int
) -> tuple[I64, I64]:
    """A table's counts and sums of positions, both (cells,), of cells that are spread and divided by their factors.

    Each cell's values become `parts` of them, an even number: half lie evenly between its end towards -inf and its
    mean, half between that and the other end; so many are on either side that the mean stays.
    """
    (lower, upper), half = ends, parts // 2
    width = np.maximum(upper - lower, np.finfo(np.float64).tiny)
    place = (np.arange(half) + 0.5)[:, None] / half
    x = np.concatenate([lower + place * (mean - lower), mean + place * (upper - mean)])
    shares = np.repeat([(upper - mean) / width, (mean - lower) / width], half, axis=0) / half
    whole = np.rint(np.cumsum(shares, axis=0) * counts).astype(np.int64)
    whole[-1] = counts
    here = np.diff(whole, axis=0, prepend=0).reshape(-1)
    limit = np.finfo(np.float32).max
    bits = (np.clip(x / factors, -limit, limit).astype(np.float32) + np.float32(0)).view(np.int32).reshape(-1)
    sizes, sums = np.zeros((2, 1 << (9 + mantissa_bits)), np.int64)
    np.add.at(sizes, _index(bits, mantissa_bits), here)
    np.add.at(sums, _index(bits, mantissa_bits), here * ((bits >> (15 - mantissa_bits)) & 255))
    return sizes, sums


def _at(address: int, kind: type[Any], *shape: int) -> NDArray[Any]:
    """The array of that shape that begins at an address."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    memory = memoryview((ctypes.c_char * size).from_address(address) if size else b"")
    return np.frombuffer(memory, kind).reshape(shape)


def _index(bits: I32, mantissa_bits: int) -> I64:
    return np.asarray(bits.view(np.uint32) >> np.uint32(23 - mantissa_bits), np.int64)


def _words(bits: I32, mantissa_bits: int) -> U64:
    return np.asarray((bits.view(np.uint32) >> np.uint32(15 - mantissa_bits)).astype(np.uint64) + MARK)


def _unpacked(packed: U64, cell: I64) -> tuple[I64, I64]:
    """Counts and sums of positions."""
    counts, positions = np.divmod(packed, MARK + (cell.astype(np.uint64) << np.uint64(8)))
    return counts.astype(np.int64), positions.astype(np.int64)
