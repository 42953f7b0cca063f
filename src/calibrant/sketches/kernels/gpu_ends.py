"""The kernel for extremes of channels alone, where the tensor as a whole is counted elsewhere: `gpu_portable.count`
less all that this leaves out."""

# mypy: disable-error-code="misc,no-untyped-def,no-untyped-call,untyped-decorator"
# Triton's language looks like Python, but its functions take and give what its compiler knows.

from __future__ import annotations

import triton
import triton.language as tl

from calibrant.sketches.kernels import gpu_portable as portable

_INFINITY = tl.constexpr(float("inf"))
_NAN, _NARROW_NAN = tl.constexpr(0x7FC00000), tl.constexpr(0x7FC0)
_FLOAT32, _BFLOAT16 = tl.constexpr(portable.FLOAT32), tl.constexpr(portable.BFLOAT16)
_FIELDS = tl.constexpr(portable.FIELDS)
_ordered, _publish, _sum = portable._ordered, portable._publish, portable._sum


@triton.jit
def ends(
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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Extremes, their hits and sizes of the groups, into half number `half[0]` of `state` (2, groups, FIELDS).

    Zeros are counted as far as they are hits of an extreme. Arguments and layout: see `gpu_portable.count`. There are
    less than 2**31 tiles.
    """
    program = tl.program_id(0)
    group = program // parts * COLUMNS + tl.arange(0, COLUMNS)
    known = group < groups
    own = state + (tl.load(half).to(tl.int64) * groups + tl.where(known, group, 0)) * _FIELDS
    row = tl.arange(0, ROWS)
    places = x + (group.to(tl.int64) * beside)[None, :] + (row.to(tl.int64) * step)[:, None]

    # Values are compared as floats, for which 0.0 is -0.0, and which know nothing less or more than NaN.
    los = tl.full([ROWS, COLUMNS], _INFINITY, tl.float32)
    his = tl.full([ROWS, COLUMNS], -_INFINITY, tl.float32)
    n_los, n_his = tl.zeros([ROWS, COLUMNS], tl.int32), tl.zeros([ROWS, COLUMNS], tl.int32)
    across = tl.cdiv(inner, ROWS)
    tiles = across * outer
    tile = program % parts
    while tile < tiles:
        # Four tiles at once: they are all on their way before the first is waited for, and brought together first.
        a = _finite(places, tile, tiles, across, inner, plane, step, row, known, KIND, ROWS)
        b = _finite(places, tile + parts, tiles, across, inner, plane, step, row, known, KIND, ROWS)
        c = _finite(places, tile + 2 * parts, tiles, across, inner, plane, step, row, known, KIND, ROWS)
        d = _finite(places, tile + 3 * parts, tiles, across, inner, plane, step, row, known, KIND, ROWS)
        least, most = tl.minimum(tl.minimum(a, b), tl.minimum(c, d)), tl.maximum(tl.maximum(a, b), tl.maximum(c, d))
        n_least, n_most = _equal(a, b, c, d, least), _equal(a, b, c, d, most)
        n_los = tl.where(least < los, n_least, n_los + tl.where(least == los, n_least, 0))
        n_his = tl.where(most > his, n_most, n_his + tl.where(most == his, n_most, 0))
        los, his = tl.minimum(los, least), tl.maximum(his, most)
        tile += 4 * parts
    lo, hi = tl.min(los, axis=0), tl.max(his, axis=0)
    n_lo = _sum(tl.where((los == lo[None, :]) & (los < _INFINITY), n_los, 0))
    n_hi = _sum(tl.where((his == hi[None, :]) & (his > -_INFINITY), n_his, 0))
    nothing = n_lo * 0
    counts = tl.where(lo == 0, n_lo, tl.where(hi == 0, n_hi, 0)), nothing, nothing, nothing
    size = tl.cast(inner, tl.int64) * outer
    _publish(_key(lo), _key(hi), n_lo, n_hi, counts, size, parts, own, known, scratch, tickets, COLUMNS, PARTS)


@triton.jit
def _finite(places, tile, tiles, across, inner, plane, step, row, known, KIND: tl.constexpr, ROWS: tl.constexpr):
    """A tile's values as float32; NaN for those that are infinite or not there."""
    n = tile // across
    i = (tile - n * across) * ROWS
    there = (row < tl.where(tile < tiles, inner - i, 0))[:, None] & known[None, :]
    place = places + (n.to(tl.int64) * plane + i.to(tl.int64) * step)
    if KIND == _FLOAT32:
        x = tl.load(place, mask=there, other=_NAN).to(tl.float32, bitcast=True)
    elif KIND == _BFLOAT16:
        x = (tl.load(place, mask=there, other=_NARROW_NAN).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        x = tl.load(place, mask=there, other=float("nan")).to(tl.float32)
    return tl.where(tl.abs(x) < _INFINITY, x, float("nan"))


@triton.jit
def _equal(a, b, c, d, x):
    return (a == x).to(tl.int32) + (b == x).to(tl.int32) + (c == x).to(tl.int32) + (d == x).to(tl.int32)


@triton.jit
def _key(x):
    return _ordered(tl.where(x == 0, 0, x.to(tl.int32, bitcast=True)))
