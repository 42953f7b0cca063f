"""A group's elements, a tile after the other, in Triton's plain language: what `gpu_portable` counts of them."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Triton's language looks like Python, but its functions take and give what its compiler knows.

from __future__ import annotations

import triton
import triton.language as tl

from calibrant.sketches.kernels.gpu_words import BFLOAT16, COUNT_BITS, FLOAT32

_FLOAT32, _BFLOAT16 = tl.constexpr(FLOAT32), tl.constexpr(BFLOAT16)
_COUNT_BITS = tl.constexpr(COUNT_BITS)
_INFINITY = tl.constexpr(float("inf"))
_NAN, _NARROW_NAN = tl.constexpr(0x7FC00000), tl.constexpr(0x7FC0)


@triton.jit
def look(
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
):
    """What every `parts`-th tile from `part` on holds of each group: lowest, highest, and the hits of both; zeros, NaN,
    +Inf and -Inf, but without TOTALS only zeros that are an end. Where there is a TABLE, the rest is added to it.

    places: where the first tile's elements are (rows, groups); known: which groups there are."""
    tiles = places, where, known, part, parts, table
    los, his, n_los, n_his, zeros, numbers, pos_inf, neg_inf, seen = _look(*tiles, KIND, TOTALS, TABLE, BITS, TABLE)
    if not TABLE:  # noqa: SIM102 (decided when it is compiled)
        if tl.max(((tl.min(los, axis=0) == -_INFINITY) | (tl.max(his, axis=0) == _INFINITY)).to(tl.int32), axis=0) > 0:
            los, his, n_los, n_his, zeros, numbers, pos_inf, neg_inf, seen = _look(
                *tiles, KIND, TOTALS, TABLE, BITS, True
            )
    lo, hi = tl.min(los, axis=0), tl.max(his, axis=0)
    n_lo = _sum(tl.where((los == lo[None, :]) & (los < _INFINITY), n_los, 0))
    n_hi = _sum(tl.where((his == hi[None, :]) & (his > -_INFINITY), n_his, 0))
    if TOTALS:
        counts = _sum(zeros), seen - _sum(numbers), _sum(pos_inf), _sum(neg_inf)
    else:
        none = n_lo * 0
        counts = tl.where(lo == 0, n_lo, tl.where(hi == 0, n_hi, 0)), none, none, none
    return (lo, hi, n_lo, n_hi), counts


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
    INFINITE: tl.constexpr,
):
    """What the tiles hold, of each place in a tile, and how many elements of a group they have.

    INFINITE: whether to look for infinities, which else are taken for extremes."""
    outer, inner, plane, _beside, step = where
    ROWS: tl.constexpr = places.shape[0]
    row = tl.arange(0, ROWS)
    # One accumulator for each place in a tile: they are brought together once, at the end. Values are compared as
    # floats, for which 0.0 is -0.0, and which know nothing less or more than NaN. What is counted is a float too, which
    # takes two instructions instead of three: a launch has less than 2**24 elements of each place.
    los, his = tl.full(places.shape, _INFINITY, tl.float32), tl.full(places.shape, -_INFINITY, tl.float32)
    nothing = tl.zeros(places.shape, tl.float32)
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
