"""What `gpu_last` does before, between and after counting as PTX: see `gpu_last_layout`."""

from __future__ import annotations

from calibrant.sketches.kernels.gpu_last_layout import (
    COUNTED,
    EVERY,
    FOUND,
    LOWS,
    MISC_ROW,
    NEAR_ZERO,
    NO_BOTTOM,
    NO_TOP,
    NOT_FINITE,
    ONES,
    PITCH,
    SKIPPED,
    SKIPPED_WORDS,
    TABLE,
    UNREAD,
    Shared,
)
from calibrant.sketches.kernels.gpu_ptx import block
from calibrant.sketches.kernels.gpu_words import COUNT_BITS

_FETCH = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
_LEAST = {"f32": 0, "bf16": 0xFF80FF80, "f16": 0xFC00FC00}  # of 16 bits: -Inf, twice
DESCRIBED = "count_param_1"  # as LLVM names the second parameter of `gpu_last.count`
NEVER_SEEN = 0xFFFFFFFF  # bits of NaN, of which there are no extremes to be known
_MOST = {"f32": 0, "bf16": 0x7F807F80, "f16": 0x7C007C00}


def begin(shared: Shared) -> str:
    """For each thread once: nothing is counted yet. $1: the address of shared memory."""
    names = [f"{name}{j}" for name in ("top", "bottom", "n_top", "n_bottom", "zeros") for j in range(shared.vector)]
    pairs = shared.vector // 2
    start = {"top": f"{NO_TOP:#x}", "bottom": f"{NO_BOTTOM:#x}"}
    before = [
        f".reg .b32 {', '.join(names)}, unread, own<{shared.vector}>, low<{shared.vector}>; mov.u32 unread, %laneid;",
        f"mad.lo.u32 unread, unread, 4, $1; add.u32 unread, unread, {4 * (shared.misc + UNREAD)};",
        f".reg .b32 one, ends, below<{pairs}>, above<{pairs}>, first<2>, add<2>; mov.b32 one, {1 << shared.sum_bits};",
        *(
            f"mov.b32 below{n}, {_LEAST[shared.kind]:#x}; mov.b32 above{n}, {_MOST[shared.kind]:#x};"
            for n in range(pairs)
        ),
        f".reg .b32 same<{shared.row}>, repeats, away, nth; mov.b32 repeats, 0; mov.b32 away, 0; mov.b32 nth, 0;",
        *(f"mov.b32 same{n}, {NEVER_SEEN};" for n in range(shared.row)),
        *(f"mov.b32 {name}, {start.get(name.rstrip('0123456789'), 0)};" for name in names),
    ]
    return block(_emptied(shared, shared.misc + FOUND), before)


def forget(shared: Shared) -> str:
    """For each thread once: empty the words; `again` goes on with a tile. $1: the address of shared memory, $2: which
    of the program's tiles that is."""
    return block([*_emptied(shared, shared.misc), "mov.b32 nth, $2;"])


def _emptied(shared: Shared, words: int) -> list[str]:
    return [
        ".reg .b32 i, at, zero; .reg .pred p; mov.b32 zero, 0; mov.u32 i, %tid.x; mad.lo.u32 at, i, 16, $1;",
        f"mul.lo.u32 i, i, 4; NEXT: setp.lt.u32 p, i, {words}; @p st.shared.v4.b32 [at], {{zero, zero, zero, zero}};",
        f"add.u32 at, at, {16 * shared.threads}; add.u32 i, i, {4 * shared.threads};",
        f"setp.lt.u32 p, i, {words}; @p bra NEXT;",
    ]


def start_anew(shared: Shared) -> str:
    """For each thread once, when words are empty: no tile was left out of them. $1: the address of shared memory."""
    lines = [
        ".reg .b32 i, at, zero; .reg .pred p; mov.b32 zero, 0; mov.u32 i, %tid.x; mad.lo.u32 at, i, 4, $1;",
        f"setp.lt.u32 p, i, {SKIPPED_WORDS * shared.threads // 32};",
        f"@p st.shared.b32 [at + {4 * (shared.misc + SKIPPED)}], zero;",
    ]
    return block(lines)


def place(shared: Shared) -> str:
    """For each thread once, when windows are found: know them. $1: the address of shared memory, $2: of the first
    channel's table, $3: bytes from one to the next."""
    misc, vector = 4 * shared.misc, shared.vector
    lines = [
        f".reg .b32 lane, at; .reg .pred p; mov.u32 lane, %laneid; and.b32 lane, lane, {shared.across - 1};",
        f"mad.lo.u32 at, lane, {4 * vector}, $1;",
        f"ld.shared.v{vector}.b32 {{{', '.join(f'low{j}' for j in range(vector))}}}, [at + {misc + 4 * LOWS}];",
        f"mad.lo.u32 own0, lane, {4 * vector // shared.apart}, $1;",
        *(f"add.u32 own{j}, own0, {8 * shared.sign * j};" for j in range(1, shared.apart)),
        f"mov.u32 at, %tid.x; setp.eq.u32 p, at, 0; @p st.shared.b64 [$1 + {misc + 4 * TABLE}], $2;",
        f"@p st.shared.b32 [$1 + {misc + 4 * PITCH}], $3;",
    ]
    if shared.kind != "f32":  # negated, and two in a register
        lines += [
            *(f"neg.s32 low{j}, low{j}; and.b32 low{j}, low{j}, 0xffff;" for j in range(vector)),
            "mad.lo.u32 low0, low1, 0x10000, low0;",
            f"mov.u32 lane, %laneid; shr.u32 lane, lane, {shared.across.bit_length() - 1}; and.b32 at, lane, 1;",
            f"shr.u32 lane, lane, 1; mad.lo.u32 ends, lane, {1 << shared.finer}, {shared.span};",
            f"mul.lo.u32 ends, ends, {ONES};",
            # Which of the two in a register is counted first: factors that take it out.
            "mad.lo.u32 own0, at, 4, own0; xor.b32 own1, own0, 4; shl.b32 at, at, 3; mov.b32 add0, 1;",
            "shl.b32 add0, add0, at; xor.b32 add1, add0, 0x101;",
            *(f"mul.lo.u32 first{n}, add{n}, {shared.factor};" for n in range(2)),
        ]
    return block(lines)


def fetch_first(shared: Shared) -> str:
    """For each thread once: each warp has its part of the first tiles brought to its slots.

    $1: the address of shared memory, $2: the tensor's first row, $3: and column, $4: rows from one tile to the next,
    $5: the row where they end. What describes the tensor is the kernel's second parameter."""
    warp_rows, row = shared.rows * 32 // shared.threads, 4 * MISC_ROW
    before = [
        ".reg .b32 ring, bars, ring_row, ring_column, ring_step, ring_end, taken; .reg .b64 map; .reg .pred leads;",
        f"mov.b64 map, {DESCRIBED}; cvta.param.u64 map, map; mov.b32 ring_column, $3; mov.b32 ring_step, $4;",
        "mov.b32 ring_end, $5; mov.b32 taken, 0;",
    ]
    lines = [
        ".reg .b32 lane, warp; mov.u32 lane, %laneid; setp.eq.u32 leads, lane, 0;",
        f"mov.u32 warp, %tid.x; shr.u32 warp, warp, 5; mad.lo.u32 ring_row, warp, {warp_rows}, $2;",
        f"mad.lo.u32 bars, warp, {8 * shared.slots}, $1; add.u32 bars, bars, {4 * shared.ring};",
        f"mad.lo.u32 ring, warp, {shared.slots * shared.slot}, $1; add.u32 ring, ring, {4 * shared.ring + row};",
        *(f"@leads mbarrier.init.shared.b64 [bars + {8 * slot}], 1;" for slot in range(shared.slots)),
        "fence.proxy.async.shared::cta;",
        f"bar.warp.sync {EVERY};",
    ]
    for slot in range(shared.slots):
        lines += [*fetch(shared, f"bars + {8 * slot}", f"ring + {slot * shared.slot}")]
    return block(lines, before)


def fetch(shared: Shared, barrier: str, place: str) -> list[str]:
    """The warp has its part of the tile after those on their way brought to a slot."""
    return [
        "{.reg .pred p; setp.lt.and.s32 p, ring_row, ring_end, leads;",
        f"@p mbarrier.arrive.expect_tx.shared.b64 _, [{barrier}], {shared.slot};",
        f"@p {_FETCH} [{place}], [map, {{ring_column, ring_row}}], [{barrier}];",
        "add.u32 ring_row, ring_row, ring_step;}",
    ]


def settle(shared: Shared) -> list[str]:
    """Count the tiles that repeated what was in one before, which the warp's first lanes do: `repeats` is 0 then."""
    lines = [
        "setp.eq.u32 p, repeats, 0; mov.u32 t, %laneid;",
        f"setp.ge.or.u32 p, t, {shared.across}, p; @p bra SETTLED;",
        f"mul.lo.u32 repeats, repeats, {shared.rows * 32 // shared.threads};",
    ]
    for j in range(shared.vector):
        lines += [
            f"mov.b32 x, same{j};" if shared.kind == "f32" else widened(shared.kind, f"same{j // 2}", j % 2 == 1),
            f"and.b32 a, x, 0x7fffffff; setp.eq.u32 p, a, 0; @p add.u32 zeros{j}, zeros{j}, repeats;",
            f"@p bra SETTLED{j};",
            *(f"setp.eq.f32 p, x, {end}{j}; @p add.u32 n_{end}{j}, n_{end}{j}, repeats;" for end in ("top", "bottom")),
            *elsewhere(shared, "x", j, "repeats", f"SETTLED{j}"),
            f"SETTLED{j}:",
        ]
    return [*lines, "SETTLED:", f"mov.b32 repeats, 0; bar.warp.sync {EVERY};"]


def elsewhere(shared: Shared, x: str, j: int, many: str, done: str) -> list[str]:
    """Count a value of a thread's channel j, not 0, so many times without its word: in the table, or if it is not
    finite, beside the words; then go to `done`. x: its float32 bits, a: these of its magnitude."""
    shift, misc = 23 - shared.mantissa_bits, 4 * shared.misc
    return [
        f"mov.u32 t, %laneid; and.b32 t, t, {shared.across - 1}; mad.lo.u32 t, t, {shared.vector}, {j};",
        "mov.u32 q, global_smem; setp.ge.u32 r, a, 0x7f800000;",
        f"shr.u32 s, {x}, 31; add.u32 s, s, 1; setp.gt.u32 p, a, 0x7f800000; @p mov.b32 s, 0;",
        f"mad.lo.u32 s, s, {shared.channels}, t; mad.lo.u32 s, s, 4, q;",
        f"add.u32 away, away, {many}; @r red.shared.add.u32 [s + {misc + 4 * NOT_FINITE}], {many}; @r bra {done};",
        f"ld.shared.b64 to, [q + {misc + 4 * TABLE}]; ld.shared.b32 s, [q + {misc + 4 * PITCH}];",
        f"mad.wide.u32 to, t, s, to; shr.u32 t, {x}, {shift}; mul.wide.u32 wide, t, 8; add.u64 to, to, wide;",
        f"shr.u32 t, {x}, {shift - 8}; and.b32 t, t, 255; mul.lo.u32 t, t, {many}; cvt.u64.u32 wide, {many};",
        f"mad.wide.u32 wide, t, {1 << COUNT_BITS}, wide; red.global.add.u64 [to], wide;",
    ]


def widened(kind: str, word: str, upper: bool) -> str:
    """Float32 bits x of the lower or upper 16 bits."""
    if kind == "bf16":
        return f"and.b32 x, {word}, 0xffff0000;" if upper else f"shl.b32 x, {word}, 16;"
    return f"mov.b32 {{h, g}}, {word}; cvt.f32.f16 x, {'g' if upper else 'h'};"


def check(shared: Shared) -> str:
    """For each thread once: leave the greatest count of a word, and add all that was counted to COUNTED: what is in
    words, and in registers the zeros, and how many there were `away` from words. If a word has overflowed, that falls
    short of the elements: each time 1 << 32 - sum_bits is lost, and at most one for each sum that is carried comes
    back. $1: the address of shared memory."""
    trash, narrow = 4 * (shared.span >> shared.finer) * shared.beside, shared.kind != "f32"
    lines = [
        ".reg .b32 i, at, end, a, b, c, d, most, count; .reg .pred p, r; mov.b32 most, 0; mov.b32 count, away;",
        *(f"add.u32 count, count, zeros{j};" for j in range(shared.vector)),
        f"mad.lo.u32 count, repeats, {shared.elements}, count;",
        f"mov.u32 i, %tid.x; mad.lo.u32 i, i, 16, $1; add.u32 end, $1, {4 * shared.misc};",
        "NEXT: setp.lt.u32 p, i, end; @!p bra THROUGH; ld.shared.v4.b32 {a, b, c, d}, [i];",
        "setp.eq.u32 r, 0, 0;",
        # Of 16 bits the words of what is outside are among the others, in either sign's: they may overflow.
        *(
            f"sub.u32 at, i, $1; sub.u32 at, at, {trash + 4 * shared.sign * sign}; setp.ge.and.u32 r, at, 128, r;"
            for sign in range(2)
            if narrow
        ),
        *(
            f"shr.u32 {x}, {x}, {shared.sum_bits}; add.u32 count, count, {x}; @r max.u32 most, most, {x};"
            for x in ("a", "b", "c", "d")
        ),
        f"add.u32 i, i, {16 * shared.threads}; bra NEXT;",
        "THROUGH: mov.u32 i, %tid.x; shr.u32 a, i, 5; and.b32 b, i, 31;",
    ]
    if narrow:  # a warp for each sign
        lines += [
            f"setp.lt.u32 p, a, {2 * shared.apart}; mad.lo.u32 a, a, {4 * shared.sign}, $1; mad.lo.u32 a, b, 4, a;",
            f"mov.b32 c, 0; @p ld.shared.b32 c, [a + {trash}];",
            f"shr.u32 c, c, {shared.sum_bits}; sub.u32 count, count, c;",
        ]
    lines += [
        f"redux.sync.max.u32 most, most, {EVERY}; redux.sync.add.u32 count, count, {EVERY}; setp.eq.u32 p, b, 0;",
        f"@p red.shared.max.u32 [$1 + {4 * shared.misc}], most;",
        f"@p red.shared.add.u32 [$1 + {4 * (shared.misc + COUNTED)}], count;",
    ]
    return block(lines)


def park(shared: Shared) -> str:
    """For each thread once: leave what the warp knows of its channels. $1: the address of shared memory."""
    row, warps = shared.channels, shared.threads // 32
    lines = [
        ".reg .b32 lane, at, t, s, x, a, q; .reg .pred p, r, first; .reg .b64 to, wide; .reg .b16 h, g;",
        *settle(shared),
        "mov.u32 lane, %laneid;",
        f"setp.lt.u32 first, lane, {shared.across}; mov.u32 at, %tid.x; shr.u32 at, at, 5;",
        f"mul.lo.u32 at, at, {row}; mad.lo.u32 at, lane, {shared.vector}, at; mad.lo.u32 at, at, 4, $1;",
    ]
    for j in range(shared.vector):
        for name in ("n_top", "n_bottom", "zeros"):
            for mask in shared.masks:
                lines.append(f"shfl.sync.bfly.b32 t, {name}{j}, {mask}, 31, {EVERY}; add.u32 {name}{j}, {name}{j}, t;")
        for end, nothing, zero, none in (
            ("top", NO_TOP, NEAR_ZERO, -0x7F800001),
            ("bottom", NO_BOTTOM, 0x80000000 | NEAR_ZERO, 0x7F800000),
        ):
            lines += [
                f"shr.s32 t, {end}{j}, 31; and.b32 t, t, 0x7fffffff; xor.b32 t, t, {end}{j};",
                f"setp.eq.u32 p, n_{end}{j}, 0; setp.eq.and.b32 p, {end}{j}, {zero:#x}, p; @p mov.b32 t, 0;",
                f"setp.eq.u32 p, n_{end}{j}, 0; setp.eq.and.b32 p, {end}{j}, {nothing:#x}, p; @p mov.b32 t, {none};",
                f"mov.b32 {end}{j}, t;",
            ]
        for field, name in enumerate(("top", "bottom", "n_top", "n_bottom", "zeros")):
            place = 4 * (shared.misc + FOUND + field * warps * row + j)
            lines.append(f"@first st.shared.b32 [at + {place}], {name}{j};")
    return block(lines)
