"""The kernel for extremes of channels alone, where the tensor as a whole is counted elsewhere: `gpu_portable.count`
less all that this leaves out."""

# mypy: disable-error-code="misc,no-untyped-def,no-untyped-call,untyped-decorator"
# Triton's language looks like Python, but its functions take and give what its compiler knows.

from __future__ import annotations

import triton
import triton.language as tl

from calibrant.sketches.kernels import gpu_portable as portable
from calibrant.sketches.kernels import reference

_NONE_LO, _NONE_HI = tl.constexpr(reference.NONE_LO), tl.constexpr(reference.NONE_HI)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_NAN, _NARROW_NAN = tl.constexpr(0x7FC00000), tl.constexpr(0x7FC0)
_FLOAT32, _BFLOAT16 = tl.constexpr(portable.FLOAT32), tl.constexpr(portable.BFLOAT16)
_FIELDS, _SIZE = tl.constexpr(portable.FIELDS), tl.constexpr(portable.SIZE)
_merge = portable._merge


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
    """Extremes, their hits, zeros and sizes of the groups, into half number `half[0]` of `state` (2, groups, FIELDS).

    Arguments and layout: see `gpu_portable.count`. There are less than 2**31 tiles.
    """
    program = tl.program_id(0)
    part = program % parts
    group = program // parts * COLUMNS + tl.arange(0, COLUMNS)
    known = group < groups
    own = state + (tl.load(half).to(tl.int64) * groups + tl.where(known, group, 0)) * _FIELDS
    row = tl.arange(0, ROWS)
    places = x + (group.to(tl.int64) * beside)[None, :] + (row.to(tl.int64) * step)[:, None]

    los = tl.full([ROWS, COLUMNS], _NONE_LO, tl.int32)
    his = tl.full([ROWS, COLUMNS], _NONE_HI, tl.int32)
    n_los, n_his = tl.zeros([ROWS, COLUMNS], tl.int32), tl.zeros([ROWS, COLUMNS], tl.int32)
    zeros = tl.zeros([ROWS, COLUMNS], tl.int32)
    tiles = tl.cdiv(inner, ROWS)
    tile = part
    while tile < tiles * outer:
        n = tile // tiles
        i = (tile - n * tiles) * ROWS
        there = (row < inner - i)[:, None] & known[None, :]
        bits = _bits_or_nan(places + (n.to(tl.int64) * plane + i.to(tl.int64) * step), there, KIND)
        key = bits ^ ((bits >> 31) & _MAGNITUDE)  # -0.0 is -1 until the end: it is a zero, whose hits are counted apart
        finite = (key < _NONE_LO) & (key > _NONE_HI)
        least, most = tl.where(finite, key, _NONE_LO), tl.where(finite, key, _NONE_HI)
        n_los = tl.where(least < los, 1, n_los + (least == los).to(tl.int32))
        n_his = tl.where(most > his, 1, n_his + (most == his).to(tl.int32))
        los, his = tl.minimum(los, least), tl.maximum(his, most)
        zeros += ((bits & _MAGNITUDE) == 0).to(tl.int32)
        tile += parts
    lo, hi = tl.min(los, axis=0), tl.max(his, axis=0)
    n_lo = tl.sum(tl.where((los == lo[None, :]) & (los < _NONE_LO), n_los, 0).to(tl.int64), axis=0)
    n_hi = tl.sum(tl.where((his == hi[None, :]) & (his > _NONE_HI), n_his, 0).to(tl.int64), axis=0)
    lo, hi = tl.where(lo == -1, 0, lo), tl.where(hi == -1, 0, hi)

    column = tl.arange(0, COLUMNS)
    mine = scratch + program.to(tl.int64) * (16 * COLUMNS) + column
    tl.store(mine, -lo.to(tl.int64))
    tl.store(mine + COLUMNS, hi.to(tl.int64))
    tl.store(mine + 8 * COLUMNS, n_lo)
    tl.store(mine + 9 * COLUMNS, n_hi)
    tl.store(mine + 10 * COLUMNS, tl.sum(zeros.to(tl.int64), axis=0))
    for field in tl.static_range(11, 14):
        tl.store(mine + field * COLUMNS, tl.zeros([COLUMNS], tl.int64))
    tl.debug_barrier()
    ticket = tickets + program // parts
    if tl.atomic_add(ticket, 1, sem="acq_rel") == parts - 1:
        tl.store(ticket, 0)
        each = tl.arange(0, PARTS)
        first = scratch + (program - part).to(tl.int64) * (16 * COLUMNS)
        found = first + each[:, None] * (16 * COLUMNS) + column[None, :]
        _merge(found, (each < parts)[:, None], COLUMNS, own, known)
        size = tl.load(own + _SIZE, mask=known, other=0) + tl.cast(inner, tl.int64) * outer
        tl.store(own + _SIZE, size, mask=known)


@triton.jit
def _bits_or_nan(place, there, KIND: tl.constexpr):
    """Float32 bits of what is there, else of NaN."""
    if KIND == _FLOAT32:
        return tl.load(place, mask=there, other=_NAN)
    if KIND == _BFLOAT16:
        return tl.load(place, mask=there, other=_NARROW_NAN).to(tl.int32) << 16
    return tl.load(place, mask=there, other=float("nan")).to(tl.float32).to(tl.int32, bitcast=True)
