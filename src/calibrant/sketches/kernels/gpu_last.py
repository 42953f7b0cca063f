"""`gpu_portable.count` with tables for channels that take turns in memory, at the speed of an NVIDIA GPU's memory.

A program counts some channels that lie side by side, at least a sector of the cache, each in a window of its own of
its multiprocessor's shared memory: see `gpu_last_layout`. Where the windows lie follows from a few rows; a badly placed
one costs time, never a count. So does a word that overflows: how many tiles fit is foreseen from those that were
counted, and where that was wrong, which `check` sees, their words are counted again. All else is as in `gpu_fast`.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from calibrant.sketches.kernels import gpu_last_layout, gpu_words
from calibrant.sketches.kernels.gpu_asm import barrier, once, shared_memory, word
from calibrant.sketches.kernels.gpu_settle import move, passes

_FIELDS, _ENDS = gl.constexpr(gpu_words.FIELDS), gl.constexpr(gpu_words.ENDS)
_SIZE, _ZEROS, _NAN = (gl.constexpr(getattr(gpu_words, name)) for name in ("SIZE", "ZEROS", "NAN"))
_ROW = gl.constexpr(gpu_last_layout.MISC_ROW)
_LOWS, _NOT_FINITE, _FOUND, _COUNTED = (
    gl.constexpr(getattr(gpu_last_layout, name)) for name in ("LOWS", "NOT_FINITE", "FOUND", "COUNTED")
)
_PROBES, _RUN = gl.constexpr(256), gl.constexpr(8)  # rows of a sample, and side by side: each run is on another page
_MOST_TILES = gl.constexpr(32 * gpu_last_layout.SKIPPED_WORDS)  # that words may hold


@gluon.jit(do_not_specialize=["rows", "parts", "together"])
def count(
    x,
    described,
    rows,
    channels,
    parts,
    together,
    state,
    heads,
    half,
    scratch,
    tickets,
    ALIGNED: gl.constexpr,
    K: gl.constexpr,
):
    """See `gpu_portable.count`: x (rows, channels), whose channels are the groups. Each K.channels of them are counted
    by as many as `heads` parts. described: where ALIGNED, what describes x to the tensor memory accelerator: assembly
    knows where it is. together: 2, if two parts each of a block add to its tables as one, in scratch, 4 * K.misc bytes
    for each part, and by tickets, a zero for each; else 1."""
    ACROSS: gl.constexpr = K.channels // K.vector
    layout: gl.constexpr = gl.BlockedLayout([1, K.vector], [32 // ACROSS, ACROSS], [K.warps, 1], [1, 0])
    line: gl.constexpr = gl.BlockedLayout([1], [32], [K.warps], [0])
    begin: gl.constexpr = K.begin
    fetch_first: gl.constexpr = K.fetch_first
    place: gl.constexpr = K.place
    park: gl.constexpr = K.park

    shared = gl.allocate_shared_memory(gl.int32, [K.buffers, _ROW], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    shared.index(0).store(gl.full([_ROW], 0, gl.int32, line))
    program, blocks = gl.program_id(0), gl.num_programs(0) // parts
    block, part = program % blocks, program // blocks
    address = shared_memory(part)
    each = gl.arange(0, 32 * K.warps, layout=line) * 0 + address
    once(begin, each)

    column = gl.arange(0, K.channels, layout=gl.SliceLayout(0, layout))
    first = block * K.channels
    own = state + (gl.load(half).to(gl.int64) * channels + first) * (heads * _FIELDS + K.table)
    pitch = (heads * _FIELDS + K.table) * 8
    table = (own + heads * _FIELDS).to(gl.int64)

    turn = part * 25 + block * 11  # of programs, where they begin to add to tables: at once, each elsewhere
    into = each, table, pitch, turn
    where = x + first, rows, channels, column, (first + column) < channels
    row = gl.arange(0, K.rows, layout=gl.SliceLayout(1, layout))
    full = rows // K.rows
    tile = part + full * 0
    sample = _sample(where, layout, K)
    barrier()
    if ALIGNED:
        way = [each, tile * K.rows, first, parts * K.rows, full * K.rows]
        gl.inline_asm_elementwise(fetch_first, "=r,r,r,r,r,r", way, gl.int32, is_pure=False, pack=1)
    low = _window(sample, K)
    shared.index((K.misc + _LOWS) // _ROW).slice(0, K.channels).store(low)
    barrier()

    gl.inline_asm_elementwise(place, "=r,r,l,r", [each, table, pitch], gl.int32, is_pure=False, pack=1)
    barrier()
    padding = _count_part(where, row, first, address, into, tile, part, parts, ALIGNED, K)
    known, before = _heads(own, part, heads, channels - first, K), gl.load(own + _SIZE)
    barrier()
    if together == 2:
        _flush_together((scratch, tickets), part // 2 * blocks + block, into, part, K)
    else:
        _flush(into, K)
    once(park, each)
    barrier()
    if (part == 0) & passes(before, rows):
        _settle(own, heads, gl.minimum(channels - first, K.channels), K)
    _keep(address, known, gl.where(part == 0, rows, 0), padding, K)
    shared.index(0).store(gl.full([_ROW], 0, gl.int32, line))  # till now Triton may use that memory for nothing else


@gluon.jit
def _sample(where, LAYOUT: gl.constexpr, K: gl.constexpr):
    """Rows from all over the tensor, some of them side by side."""
    rows = where[1]
    probe = gl.arange(0, _PROBES, layout=gl.SliceLayout(1, LAYOUT))
    spread = probe // _RUN * (rows // (_PROBES // _RUN)) + probe % _RUN
    spread = gl.where(rows < _PROBES, gl.minimum(probe, rows - 1), spread)
    return _load(where, spread, rows * 0, False, K)


@gluon.jit
def _count_part(where, row, first, address, into, tile, part, parts, ALIGNED: gl.constexpr, K: gl.constexpr):
    """Count every parts-th tile from `tile` on, and add words to the tables where they may be full; leave the rest in
    them. Return how many rows of NaN the last tile had that are not in the tensor. row: the numbers of a tile's rows.

    Words have room for so many tiles for sure; for more if those to come are like those held, which `check` tells
    afterwards. Whoever was wrong once does not guess again."""
    count_asm: gl.constexpr = K.asm
    count_next: gl.constexpr = K.count_next
    check: gl.constexpr = K.check
    start_anew: gl.constexpr = K.start_anew
    ROOM: gl.constexpr = (K.limit - K.rows + 1) // K.rows
    each, rows = into[0], where[1]
    full = rows // K.rows
    sure, room, held_from, seen = tile * 0 + ROOM, tile * 0 + ROOM, tile, tile * 0
    wrong = tile < 0 if ALIGNED else tile >= 0
    while tile < full:
        stop = gl.minimum(tile + room * parts, full)
        for t in range(tile, stop, parts):
            if ALIGNED:
                once(count_next, each)
            else:
                _asm(_load(where, row, t * K.rows, False, K), count_asm, K)
        tile += (stop - tile + parts - 1) // parts * parts
        if (tile < full) | (room > sure):
            barrier()
            once(check, each)
            barrier()
            most, counted = word(address, 0, K), word(address, _COUNTED, K)
            held = (tile - held_from) // parts
            if (room > sure) & (counted - seen != (tile - part) // parts * (K.rows * K.channels)):
                _count_again(where, first, into, part, parts, held_from, tile, K)
                most, held, held_from, wrong = most * 0, held * 0, tile, tile >= 0
            seen = counted
            sure, room, room_anew = _room_for(held, most, wrong, K)
            if ((tile < full) & (room < (ROOM + 3) // 4)) | (most > K.limit - K.rows):
                barrier()
                _flush(into, K)
                once(start_anew, each)
                barrier()
                sure, room, held_from = sure * 0 + ROOM, room_anew, tile
    padding = rows * 0
    if (full * K.rows < rows) & (full % parts == part):
        _asm(_load(where, row, full * K.rows, True, K), count_asm, K)
        padding = (full + 1) * K.rows - rows
    return padding


@gluon.jit
def _room_for(held, most, wrong, K: gl.constexpr):
    """How many tiles words have room for that hold some, of which a word has `most` elements: for sure; if those to
    come are alike, unless that was wrong; and once the words are empty."""
    ROOM: gl.constexpr = (K.limit - K.rows + 1) // K.rows
    alike = held * (K.limit // 10 * 9) // (most + 1)
    sure = (K.limit - K.rows + 1 - most) // K.rows
    room = gl.where(wrong, sure, gl.minimum(gl.maximum(alike - held, sure), _MOST_TILES - held))
    return sure, room, gl.where(wrong, ROOM, gl.minimum(gl.maximum(alike, ROOM), _MOST_TILES))


@gluon.jit
def _count_again(where, first, into, part, parts, tile, stop, K: gl.constexpr):
    """Add the elements of tiles to words that have room for them: those before did not."""
    ROOM: gl.constexpr = (K.limit - K.rows + 1) // K.rows
    ACROSS: gl.constexpr = K.channels // K.vector
    # The rows of a warp are those that the tensor memory accelerator brings it.
    layout: gl.constexpr = gl.BlockedLayout(
        [K.rows * ACROSS // (32 * K.warps), K.vector], [32 // ACROSS, ACROSS], [K.warps, 1], [1, 0]
    )
    again: gl.constexpr = K.again
    forget: gl.constexpr = K.forget
    x, rows, channels, _, _ = where
    column = gl.arange(0, K.channels, layout=gl.SliceLayout(0, layout))
    row = gl.arange(0, K.rows, layout=gl.SliceLayout(1, layout))
    there = x, rows, channels, column, (first + column) < channels
    gl.inline_asm_elementwise(forget, "=r,r,r", [into[0], (tile - part) // parts], gl.int32, is_pure=False, pack=1)
    barrier()
    for start in range(tile, stop, ROOM * parts):
        for t in range(start, gl.minimum(start + ROOM * parts, stop), parts):
            _asm(_load(there, row, t * K.rows, False, K), again, K)
        barrier()
        _flush(into, K)
        barrier()


@gluon.jit
def _load(where, row, first, MASKED: gl.constexpr, K: gl.constexpr):
    """Rows from the first one on, of the program's channels; 0 in columns without one. MASKED: NaN beyond all rows."""
    x, rows, channels, column, known = where
    at = (x + first.to(gl.int64) * channels) + (row.to(gl.int64)[:, None] * channels + column[None, :])
    if MASKED:
        nan: gl.constexpr = 0x7FC00000 if K.kind == 0 else 0x7FC0 if K.kind == 1 else 0x7E00
        nothing = gl.where(known, nan, 0)[None, :] + row[:, None] * 0
        there = (first + row < rows)[:, None] & known[None, :]
        return gl.load(at, mask=there, other=nothing.to(x.dtype.element_ty))
    return gl.load(at, mask=known[None, :] & (row[:, None] >= 0), other=0)


@gluon.jit
def _window(sample, K: gl.constexpr):
    """The lowest bits of each channel's window, which ends five mean deviations of the exponents above their mean in
    the sample, or in its middle."""
    infinite: gl.constexpr = 0x7F800000 if K.kind == 0 else 0x7F80 if K.kind == 1 else 0x7C00
    one: gl.constexpr = 15 if K.kind == 2 else 127  # the exponent of 1.0
    magnitude = sample.to(gl.int32) & (0x7FFFFFFF if K.kind == 0 else 0x7FFF)
    exponent = gl.where(magnitude < infinite, magnitude, 0) >> K.own_bits
    both = gl.sum(exponent + gl.where(exponent > 0, 1 << 20, 0), 0)  # their sum, and above it how many there are
    known = both >> 20
    mean = gl.where(known > 0, (both & 0xFFFFF) // gl.maximum(known, 1), one)
    off = gl.where(exponent > 0, exponent - mean[None, :], 0)
    above = (5 * gl.sum(gl.maximum(off, -off), 0) + known) // gl.maximum(known, 1)
    low = mean + 1 + gl.minimum(above, K.octaves // 2) - K.octaves
    return gl.minimum(gl.maximum(low, 1), 2 * one + 1 - K.octaves) << K.own_bits


@gluon.jit
def _asm(x_bits, ASM: gl.constexpr, K: gl.constexpr):
    gl.inline_asm_elementwise(ASM, K.constraints, [x_bits], x_bits.dtype, is_pure=False, pack=K.elements)


@gluon.jit
def _flush(into, K: gl.constexpr):
    """Add the words to the tables. into: a number for each thread; the first table, how far apart they are, and where
    to begin."""
    each, table, pitch, turn = into
    flush: gl.constexpr = K.flush
    gl.inline_asm_elementwise(flush, "=r,r,l,r,r", [each, table, pitch, turn], gl.int32, is_pure=False, pack=1)


@gluon.jit
def _flush_together(room, pair, into, part, K: gl.constexpr):
    """Add the words of two programs to the tables as one: memory has half as much to add up. A program leaves one half
    of its words in scratch for the other one, whose other half it adds with its own. If one comes much later, it does
    all of that: the other one has left all words, and waits for nobody who may not be at work at all.

    A ticket is how many have left a half: who is the second adds what the first one left."""
    scratch, tickets = room
    each, table, pitch, turn = into
    leave: gl.constexpr = K.leave
    flush_both: gl.constexpr = K.flush_both
    me = part % 2
    for n in range(2):
        half = (me + 1 + n) % 2
        ticket = tickets + 2 * pair + half
        places = scratch.to(gl.int64) + (2 * pair + half).to(gl.int64) * (4 * K.misc)
        left, tries = part * 0, part * 0
        while (n == 1) & (left == 0) & (tries < K.patience):
            left = gl.atomic_add(ticket, 0, sem="acquire")
            tries += 1
        if left == 0:
            inputs = [each, places + me * (2 * K.misc), half]
            gl.inline_asm_elementwise(leave, "=r,r,l,r", inputs, gl.int32, is_pure=False, pack=1)
            barrier()
            left = gl.atomic_add(ticket, 1, sem="acq_rel")
        if left > 0:
            inputs = [each, table, pitch, turn, places + (1 - me) * (2 * K.misc), half]
            gl.inline_asm_elementwise(flush_both, "=r,r,l,r,r,l,r", inputs, gl.int32, is_pure=False, pack=1)
            gl.store(ticket, 0)


@gluon.jit
def _settle(own, heads, channels, K: gl.constexpr):
    """Make room in the first words of the channels' tables."""
    for n in range(channels):
        move(own + n * (heads * _FIELDS + K.table) + heads * _FIELDS, 0, K.table // 2, K)


@gluon.jit
def _heads(own, part, heads, known, K: gl.constexpr):
    """Where the program's head of each channel is, which are there, and what is in them."""
    layout: gl.constexpr = gl.BlockedLayout([K.warps, 1], [1, 32], [1, K.warps], [1, 0])
    column = gl.arange(0, K.channels, layout=gl.SliceLayout(0, layout))
    head = own + column.to(gl.int64) * (heads * _FIELDS + K.table) + part * _FIELDS
    there = column < known
    low, n_low = gl.load(head, mask=there, other=0), gl.load(head + _ENDS, mask=there, other=0)
    high, n_high = gl.load(head + 1, mask=there, other=0), gl.load(head + 1 + _ENDS, mask=there, other=0)
    zeros, size = gl.load(head + _ZEROS, mask=there, other=0), gl.load(head + _SIZE, mask=there, other=0)
    nan, pos_inf = gl.load(head + _NAN, mask=there, other=0), gl.load(head + _NAN + 1, mask=there, other=0)
    neg_inf = gl.load(head + _NAN + 2, mask=there, other=0)
    return head, there, ((low, n_low), (high, n_high)), (zeros, size), (nan, pos_inf, neg_inf)


@gluon.jit
def _keep(address, known, rows, padding, K: gl.constexpr):
    """Bring together what the warps found, and add it to the program's heads, known from `_heads`."""
    head, there, ends, others, not_finite = known
    low, n_low = _of_all(address, 1, True, K)
    high, n_high = _of_all(address, 0, False, K)
    _further(head, -low.to(gl.int64), n_low, ends[0], there)
    _further(head + 1, high.to(gl.int64), n_high, ends[1], there)
    gl.store(head + _ZEROS, others[0] + gl.sum(_found(address, 4, K), 0).to(gl.int64), mask=there)
    gl.store(head + _SIZE, others[1] + rows, mask=there)
    column = gl.arange(0, K.channels, layout=head.type.layout)
    for kind in gl.static_range(3):
        counts = word(address + (kind * K.channels + column) * 4, _NOT_FINITE, K).to(gl.int64)
        gl.store(head + _NAN + kind, not_finite[kind] + counts - (padding if kind == 0 else 0), mask=there)


@gluon.jit
def _found(address, FIELD: gl.constexpr, K: gl.constexpr):
    """What `park` left of a field (warps, channels): all warps of a channel in one thread."""
    layout: gl.constexpr = gl.BlockedLayout([K.warps, 1], [1, 32], [1, K.warps], [1, 0])
    warp = gl.arange(0, K.warps, layout=gl.SliceLayout(1, layout))
    column = gl.arange(0, K.channels, layout=gl.SliceLayout(0, layout))
    place = (FIELD * K.warps + warp)[:, None] * K.channels + column[None, :]
    return word(address + place * 4, _FOUND, K)


@gluon.jit
def _of_all(address, FIELD: gl.constexpr, LEAST: gl.constexpr, K: gl.constexpr):
    """An end of each channel, and how often all warps hit it."""
    keys, hits = _found(address, FIELD, K), _found(address, 3 if LEAST else 2, K)
    end = gl.min(keys, 0) if LEAST else gl.max(keys, 0)
    return end, gl.sum(gl.where(keys == end[None, :], hits, 0), 0).to(gl.int64)


@gluon.jit
def _further(head, end, hits, known, there):
    furthest = gl.maximum(known[0], end)
    hits = gl.where(end == furthest, hits, 0) + gl.where(known[0] == furthest, known[1], 0)
    gl.store(head, furthest, mask=there)
    gl.store(head + _ENDS, hits, mask=there)
