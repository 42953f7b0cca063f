"""`gpu_portable.count` for NVIDIA's GPUs, at the speed of their memory: in Gluon, Triton's lower language, and PTX.

Each program counts into its multiprocessor's shared memory: see `gpu_ptx`. Where the window lies on the number line
follows from a few values all over the tensor; badly placed, it costs time, never a count. At the end a program adds
what is not zero to the tables in global memory, and extremes to a head of its own: so no program waits for another.

Gluon is no stable language yet, and that shared memory begins with what is allocated first is Triton's habit, not its
promise. So `gpu` tries this file against `gpu_portable` before it is used.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from calibrant.sketches.kernels import gpu_ptx as ptx
from calibrant.sketches.kernels import gpu_words
from calibrant.sketches.kernels.gpu_asm import barrier, once, shared_memory, word
from calibrant.sketches.kernels.gpu_settle import settle

_FLOAT16 = gl.constexpr(gpu_words.FLOAT16)
_FIELDS, _ENDS = gl.constexpr(gpu_words.FIELDS), gl.constexpr(gpu_words.ENDS)
_SIZE, _NAN = gl.constexpr(gpu_words.SIZE - gpu_words.ENDS), gl.constexpr(gpu_words.NAN - gpu_words.ENDS)
_MISC_WORDS, _PAIRS = gl.constexpr(ptx.MISC_WORDS), gl.constexpr(ptx.PAIRS)
_LARGEST, _BELOW = gl.constexpr(ptx.LARGEST), gl.constexpr(ptx.BELOW)
_COUNTED, _OUTSIDE, _MOST = gl.constexpr(ptx.COUNTED), gl.constexpr(ptx.OUTSIDE), gl.constexpr(ptx.MOST)
_FIRST_STRETCH = gl.constexpr(20)  # tiles that are counted in packed words before it is known how they fill up
_ROOM = gl.constexpr(3700)  # how full they may become: of 4095, for what comes may differ from what was seen
_FOUND = gl.constexpr(ptx.FOUND)
_TWO_UNITS = gl.constexpr(2 << gpu_words.UNIT_BITS)
_EARLY = gl.constexpr(2)  # tiles on their way to the second cache before it is known how to count them


@gluon.jit(do_not_specialize=["length", "magic", "shift", "parts"])
def count(
    x,
    length,
    magic,
    shift,
    gap,
    beside,
    groups,
    parts,
    state,
    heads,
    half,
    PLANES: gl.constexpr,
    K: gl.constexpr,
):
    """See `gpu_portable.count`: here a group is one stretch, or with PLANES one of many, of at most `heads` parts.

    length elements of x in each group; the next group begins `beside` vectors later. Vector v of a group lies
    v // inner * gap vectors after where it would lie in one stretch; magic, shift: see `gpu_fast_kernel.division`.
    """
    ready = _ready(K)
    program = gl.program_id(0)
    group = program // parts
    own = state + (gl.load(half).to(gl.int64) * groups + group) * (heads * _FIELDS + K.table)
    begin = x + group.to(gl.int64) * beside * K.vector
    _count(ready, (begin, length, magic, shift, gap), program % parts, parts, own, heads, PLANES, K)


@gluon.jit
def count_many(descriptions, half, K: gl.constexpr):
    """The same for many tensors, each of one group and one stretch: a description for each program."""
    program = gl.program_id(0)
    mine = descriptions + program * 8
    x = gl.multiple_of(gl.load(mine).to(gl.pointer_type(gl.int32 if K.kind == 0 else gl.int16)), 16)
    length, state = gl.load(mine + 1), gl.load(mine + 2).to(gl.pointer_type(gl.int64))
    part, parts, heads = gl.load(mine + 3).to(gl.int32), gl.load(mine + 4).to(gl.int32), gl.load(mine + 5)
    ready = _ready(K)
    own = state + gl.load(half).to(gl.int64) * (heads * _FIELDS + K.table)
    _count(ready, (x, length, 0, 0, 0), part, parts, own, heads, False, K)


@gluon.jit
def _ready(K: gl.constexpr):
    """Shared memory, its address, and that for each thread; nothing is counted in it yet. What comes before this kernel
    in the stream is through then."""
    line: gl.constexpr = gl.BlockedLayout([1], [32], [K.warps], [0])
    begin: gl.constexpr = K.begin
    shared = gl.allocate_shared_memory(gl.int32, [K.buffers, _MISC_WORDS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    shared.index(0).store(gl.full([_MISC_WORDS], 0, gl.int32, line))
    address = shared_memory(gl.program_id(0))
    each = gl.arange(0, 32 * K.warps, layout=line) * 0 + address
    once(begin, each)
    return shared, address, each


@gluon.jit
def _count(ready, group, part, parts, own, heads, PLANES: gl.constexpr, K: gl.constexpr):
    """Count a part of a group: (x, length, magic, shift, gap) as above. ready: what `_ready` returned."""
    shared, address, each = ready
    length = group[1]
    V: gl.constexpr = K.vector
    VECTORS: gl.constexpr = 32 * K.warps * K.elements // V
    tile_layout: gl.constexpr = gl.BlockedLayout([1, V], [32, 1], [K.warps, 1], [1, 0])
    line: gl.constexpr = gl.BlockedLayout([1], [32], [K.warps], [0])
    in_vector = gl.arange(0, V, layout=gl.SliceLayout(0, tile_layout))[None, :]
    vectors = gl.arange(0, VECTORS, layout=gl.SliceLayout(1, tile_layout))
    count_asm: gl.constexpr = K.asm
    count_constant: gl.constexpr = K.constant
    empty_sums: gl.constexpr = K.empty_sums
    flush: gl.constexpr = K.flush
    park: gl.constexpr = K.park
    end: gl.constexpr = K.end

    sample = _sample(group, in_vector, tile_layout, PLANES, K)
    settle(own, heads, gl.minimum(length.to(gl.int64), parts * _TWO_UNITS), part, parts, K)
    full = length // (VECTORS * V)
    if not PLANES:
        _fetch(group, vectors, part, parts, full, K)
    low = _look(sample, address, PLANES, K)

    table = (own + heads * _FIELDS).to(gl.int64)
    into = each, address, table, low
    tile = part.to(gl.int64)
    redone = tile < 0
    pairs = word(address, _PAIRS, K)
    if K.may_pack:  # noqa: SIM102 (decided when it is compiled)
        if (pairs < K.most_pairs) & (length >= 32 * K.warps * V):
            tile, redone = _count_packed(group, vectors, in_vector, tile, full, part, parts, into, PLANES, K)
    last = (full * (VECTORS * V) < length) & (full % parts == part)
    plain = (tile < full) | last
    if plain & (redone == 0):
        once(empty_sums, each)
        barrier()
    if K.may_pack:
        if tile == part:  # values repeat: nothing was packed
            tile = _count_pairs(group, in_vector, vectors, full, part, parts, into, PLANES, K)
        _count_tiles(group, vectors, in_vector, tile, full, parts, into, count_asm, PLANES, K)
    elif pairs > K.most_pairs:
        _count_tiles(group, vectors, in_vector, tile, full, parts, into, count_constant, PLANES, K)
    else:
        _count_tiles(group, vectors, in_vector, tile, full, parts, into, count_asm, PLANES, K)
    padding = length * 0
    if last:
        x_bits = _load(group, vectors, in_vector, full * VECTORS, True, PLANES, True, K)
        _asm(x_bits, address, table, low, count_asm, K)
        padding = (full + 1) * (VECTORS * V) - length
    head = own + part * _FIELDS + gl.arange(0, _ENDS, layout=line)
    old = gl.load(head), gl.load(head + _ENDS)  # before what is added, which they would wait for
    once(park, each)
    barrier()
    if plain | redone:
        _flush(flush, each, table, low, part)
        barrier()
    once(end, each)
    barrier()
    _keep(shared.index(K.misc // _MISC_WORDS), head, old, length, part, padding)


@gluon.jit
def _look(sample, address, PLANES: gl.constexpr, K: gl.constexpr):
    """Leave what a sample tells in shared memory, and return the window's lowest bits."""
    barrier()
    gl.inline_asm_elementwise(
        K.look, K.look_constraints, [sample.to(gl.int32), address], gl.int32, is_pure=False, pack=K.vector
    )
    barrier()
    return _window(address, PLANES, K)


@gluon.jit
def _keep(misc, head, old, length, part, padding):
    """Add what `end` left in shared memory to the program's head, in which was `old`: ends, and their counts."""
    line: gl.constexpr = head.type.layout
    field = gl.arange(0, _ENDS, layout=line)
    ends = misc.slice(_FOUND, _ENDS).load(line).to(gl.int64)
    counts = misc.slice(_FOUND + _ENDS, _ENDS).load(line).to(gl.int64)
    furthest = gl.maximum(old[0], ends)
    counts = gl.where(ends == furthest, counts, 0) + gl.where(old[0] == furthest, old[1], 0)
    counts += gl.where(field == _SIZE, gl.where(part == 0, length, 0), 0) - gl.where(field == _NAN, padding, 0)
    gl.store(head, furthest)
    gl.store(head + _ENDS, counts)


@gluon.jit
def _fetch(group, vectors, part, parts, full, K: gl.constexpr):
    """Have the first tiles come to the second cache: else memory would have nothing to do for as long as it takes to
    place the window."""
    V: gl.constexpr = K.vector
    for early in gl.static_range(_EARLY):
        tile = part.to(gl.int64) + early * parts
        if tile < full:
            places = (group[0] + (tile * vectors.shape[0] + vectors) * V).to(gl.int64)
            gl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [places], gl.int32, is_pure=False, pack=1
            )


@gluon.jit
def _count_packed(group, vectors, in_vector, tile, full, part, parts, into, PLANES: gl.constexpr, K: gl.constexpr):
    """Count tiles in packed words while these have room; return the next one, and whether some had to be done again:
    then words and sums are in use, else words are empty if anything is left to count, and sums are not ready.

    Before words are added to the table it is looked at whether they are sound, but for the last ones: that takes as
    long as adding, so these are added at once, and taken back if they were not sound."""
    each, address, table, low = into
    TILE: gl.constexpr = 32 * K.warps * K.elements
    count_packed: gl.constexpr = K.packed
    count_again: gl.constexpr = K.again
    check: gl.constexpr = K.check
    forget: gl.constexpr = K.forget
    empty: gl.constexpr = K.empty
    flush: gl.constexpr = K.flush_packed
    take_back: gl.constexpr = K.take_back
    redone = tile < 0
    first, seen, room = tile, address * 0, tile * 0 + _FIRST_STRETCH  # first: that is in the words
    while (tile < full) & (room >= _FIRST_STRETCH):  # shorter stretches are not worth their ends
        stop = gl.minimum(tile + room * parts, full)
        _count_tiles(group, vectors, in_vector, tile, stop, parts, into, count_packed, PLANES, K)
        barrier()
        held = (stop - first + parts - 1) // parts
        tile = first + held * parts
        if tile < full:
            once(check, each)
        else:
            _flush(flush, each, table, low, part)
        barrier()
        counted = word(address, _COUNTED, K)
        if counted - seen + word(address, _OUTSIDE, K) == held * TILE:
            most = held * _ROOM // (word(address, _MOST, K) + 1)  # tiles, if those to come are like those held
            seen = counted
            room = most - held
            if (tile < full) & (room < _FIRST_STRETCH):
                _flush(flush, each, table, low, part)
                barrier()
            if (room < _FIRST_STRETCH) | ((tile >= full) & (full * TILE < group[1])):
                once(forget, each)
                first, seen, room = tile, seen * 0, most
        else:
            if tile >= full:
                _flush(take_back, each, table, low, part)
                barrier()
            once(empty, each)
            barrier()
            _count_tiles(group, vectors, in_vector, first, stop, parts, into, count_again, PLANES, K)
            redone = tile >= 0
            room = room * 0
        barrier()
    return tile, redone


@gluon.jit
def _count_tiles(
    group, vectors, in_vector, tile, stop, parts, into, ASM: gl.constexpr, PLANES: gl.constexpr, K: gl.constexpr
):
    """Count every parts-th tile before `stop`, the next one being on its way already."""
    _each, address, table, low = into
    VECTORS: gl.constexpr = 32 * K.warps * K.elements // K.vector
    ahead = _load(group, vectors, in_vector, tile * VECTORS, tile < stop, PLANES, False, K)
    for t in range(tile, stop, parts):
        x_bits = ahead
        ahead = _load(group, vectors, in_vector, (t + parts) * VECTORS, t + parts < stop, PLANES, False, K)
        _asm(x_bits, address, table, low, ASM, K)


@gluon.jit
def _count_pairs(group, in_vector, vectors, full, part, parts, into, PLANES: gl.constexpr, K: gl.constexpr):
    """Count all tiles before `full`, two that are neighbours as one: then fewer instructions make up for reading while
    nothing is counted. Return `full`."""
    _each, address, table, low = into
    VECTORS: gl.constexpr = 32 * K.warps * K.elements // K.vector
    both = gl.arange(0, 2 * VECTORS, layout=vectors.type.layout)
    wide_asm: gl.constexpr = K.wide
    pairs = full // 2
    for t in range(part.to(gl.int64), pairs, parts):
        x_bits = _load(group, both, in_vector, t * (2 * VECTORS), True, PLANES, False, K)
        gl.inline_asm_elementwise(
            wide_asm,
            K.wide_constraints,
            [x_bits, address, table, low],
            x_bits.dtype,
            is_pure=False,
            pack=2 * K.elements,
        )
    alone = pairs * 2 + (part + parts - pairs % parts) % parts * (
        full + 1
    )  # the one without a neighbour is of one part
    count_asm: gl.constexpr = K.asm
    _count_tiles(group, vectors, in_vector, alone.to(gl.int64), full, parts, into, count_asm, PLANES, K)
    return full.to(gl.int64)


@gluon.jit
def _sample(group, in_vector, LAYOUT: gl.constexpr, PLANES: gl.constexpr, K: gl.constexpr):
    """A vector for each thread, from all over the tensor, whose first values may be unlike the rest; but from few
    places, as each is on another page."""
    THREADS: gl.constexpr = 32 * K.warps
    thread = gl.arange(0, THREADS, layout=gl.SliceLayout(1, LAYOUT))
    whole = group[1] // K.vector
    spread = thread // 32 * (whole // K.warps) + thread % 32
    probe = gl.where(whole >= THREADS, spread, gl.minimum(thread, gl.maximum(whole - 1, 0)))
    return _load(group, probe, in_vector, 0, whole > 0, PLANES, False, K)


@gluon.jit
def _load(group, v, in_vector, start, valid, PLANES: gl.constexpr, MASKED: gl.constexpr, K: gl.constexpr):
    """The vectors start + v of a group. MASKED: beyond length NaN; else not beyond, and 0 unless valid."""
    x, length, magic, shift, gap = group
    V: gl.constexpr = K.vector
    if PLANES:
        number = (start + v).to(gl.uint32)
        row = gl.umulhi(number, magic.to(gl.uint32)) >> shift.to(gl.uint32)
        place = number.to(gl.int64) + row.to(gl.int64) * gap
        at = (x + place * V)[:, None] + in_vector
    else:
        at = (x + start * V) + (v[:, None] * V + in_vector)
    if MASKED:
        there = (start + v)[:, None] * V + in_vector < length
        nan: gl.constexpr = 0x7FC00000 if K.kind == 0 else 0x7FC0 if K.kind == 1 else 0x7E00
        return gl.load(at, mask=there, other=nan)
    # Of float32, whose tables leave little of the first cache, what is read goes past that.
    cached: gl.constexpr = ".cg" if K.kind == 0 else ""
    return gl.load(at, mask=valid, other=0, cache_modifier=cached)


@gluon.jit
def _flush(ASM: gl.constexpr, each, table, low, part):
    """Programs begin at different places, to be in each other's way less."""
    gl.inline_asm_elementwise(ASM, "=r,r,l,r,r", [each, table, low, part * 25], gl.int32, is_pure=False, pack=1)


@gluon.jit
def _asm(x_bits, address, table, low, ASM: gl.constexpr, K: gl.constexpr):
    gl.inline_asm_elementwise(
        ASM, K.constraints, [x_bits, address, table, low], x_bits.dtype, is_pure=False, pack=K.elements
    )


@gluon.jit
def _window(address, PLANES: gl.constexpr, K: gl.constexpr):
    """The lowest bits of a window: the usual ones, unless the largest of a sample is elsewhere or low in it. Of
    float16 it has not room for all octaves, and where each program has a channel, those that it suits least are waited
    for: there as many are above the sample as below it."""
    one_octave: gl.constexpr = 23 if K.kind == 0 else 7 if K.kind == 1 else 10
    highest = word(address, _LARGEST, K) >> one_octave
    if K.kind == _FLOAT16:
        low = highest + 3 - K.octaves
        if PLANES:
            lowest = (0x7C00 - word(address, _BELOW, K)) >> one_octave
            low = gl.minimum(low, gl.maximum(highest + lowest + 1 - K.octaves, 0) // 2)
        return gl.maximum(gl.minimum(gl.maximum(low, 0), 31 - K.octaves) << 10, K.least)
    usual: gl.constexpr = 127 + 16 - K.octaves
    moved = gl.minimum(gl.maximum(highest + 9 - K.octaves, 1), 255 - K.octaves)
    elsewhere = (highest > 0) & ((highest < usual + K.octaves // 2) | (highest >= usual + K.octaves))
    return gl.where(elsewhere, moved, usual) << one_octave
