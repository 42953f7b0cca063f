"""How `gpu_last` adds words to tables in global memory, as PTX: see `gpu_last_layout`.

A program adds all of its words, or half of them together with those of another program, which has left them in global
memory. For the additions take longest, which the second cache does for all programs, and then there are half as many.
"""

from __future__ import annotations

from calibrant.sketches.kernels.gpu_last_layout import EVERY, LOWS, STRIP, Shared
from calibrant.sketches.kernels.gpu_ptx import block
from calibrant.sketches.kernels.gpu_words import COUNT_BITS

AT_ONCE = 4  # strips of another program that a warp reads before it adds them


def leave(shared: Shared) -> str:
    """For each thread once: leave half of the words in global memory. $1: the address of shared memory, $2: of global
    memory, $3: which half."""
    lines = [
        ".reg .b32 i, at, a, b, c, d; .reg .pred p; .reg .b64 to;",
        f"mov.u32 i, %tid.x; mad.lo.u32 at, i, 16, $1; mad.lo.u32 at, $3, {2 * shared.misc}, at;",
        f"mad.wide.u32 to, i, 16, $2; mul.lo.u32 i, i, 4; setp.ge.u32 p, i, {shared.misc // 2}; @p bra THROUGH;",
        "NEXT: ld.shared.v4.b32 {a, b, c, d}, [at]; st.global.v4.b32 [to], {a, b, c, d};",
        f"add.u32 at, at, {16 * shared.threads}; add.u64 to, to, {16 * shared.threads};",
        f"add.u32 i, i, {4 * shared.threads}; setp.lt.u32 p, i, {shared.misc // 2}; @p bra NEXT;",
        "THROUGH:",
    ]
    return block(lines)


def flush(shared: Shared) -> str:
    """For each thread once: add the words to the tables, and empty them. A warp adds cells that lie side by side.

    $1: the address of shared memory, $2: of the first channel's table, $3: bytes from one to the next, $4: the strip to
    begin with, or any number more."""
    strips = shared.misc // STRIP
    lines = [
        *_begin_with(shared, strips),
        "NEXT: mov.b32 strip, i;",
        *_add_strip(shared, "", "st.shared.v4.b32 [at], {zero, zero, zero, zero};"),
        f"add.u32 i, i, {shared.threads // 32}; add.u32 stop, stop, {shared.threads // 32};",
        f"setp.ge.u32 p, i, {strips}; @p sub.u32 i, i, {strips};",
        f"setp.lt.u32 p, stop, {strips}; @p bra NEXT;",
        "THROUGH: mov.u32 i, %tid.x; setp.eq.u32 p, i, 0;",
        f"@p st.shared.b32 [$1 + {4 * shared.misc}], zero;",
    ]
    return block(lines)


def flush_both(shared: Shared) -> str:
    """For each thread once: add half of the words to the tables, with what another program left of that half.

    $1 to $4: as for `flush`, $5: where the other program left its words, $6: which half. Of 16 bits, a warp looks at
    two strips: of channels that are so many, one has few cells that lie side by side in a table."""
    several = 1 if shared.kind == "f32" else 2
    looks, warps = shared.misc // STRIP // 2 // several, shared.threads // 32
    ahead = [f"other{u}_{n}" for u in range(AT_ONCE // several) for n in range(4 * several)]
    lines = [
        *_begin_with(shared, looks),
        f".reg .b32 {', '.join(ahead)}, there<{AT_ONCE}>, more<4>, odd, own_cell, own_channel; .reg .b64 left;",
        *(_of_lane(shared) if several == 2 else []),
        "NEXT:",
    ]
    # What is added to memory delays what is read from it: so it is read before.
    for u in range(AT_ONCE // several):
        lines += [
            f"add.u32 there{u}, i, {warps * u}; setp.ge.u32 p, there{u}, {looks};",
            f"@p sub.u32 there{u}, there{u}, {looks};",
            f"add.u32 t, stop, {warps * u}; setp.lt.u32 p, t, {looks}; @!p bra READ;",
            f"mad.wide.u32 left, lane, 16, $5; mad.wide.u32 left, there{u}, {4 * STRIP * several}, left;",
            *(
                f"ld.global.cg.v4.b32 {{{', '.join(ahead[4 * several * u + 4 * s :][:4])}}}, [left + {4 * STRIP * s}];"
                for s in range(several)
            ),
        ]
    lines.append("READ:")
    for u in range(AT_ONCE // several):
        lines += [
            f"setp.ge.u32 p, stop, {looks}; @p bra THROUGH; mad.lo.u32 strip, $6, {looks}, there{u};",
            f"mul.lo.u32 strip, strip, {several};",
            *(_add_strip(shared, f"other{u}_") if several == 1 else _add_two_strips(shared, f"other{u}_")),
            f"add.u32 stop, stop, {warps};",
        ]
    lines += [
        f"add.u32 i, i, {warps * AT_ONCE // several}; setp.ge.u32 p, i, {looks}; @p sub.u32 i, i, {looks};",
        f"setp.lt.u32 p, stop, {looks}; @p bra NEXT; THROUGH:",
    ]
    return block(lines)


def _of_lane(shared: Shared) -> list[str]:
    """Which cell of two strips, and which channels, are a lane's once `_add_two_strips` has them change places."""
    lanes = shared.beside // 4
    return [
        "and.b32 odd, lane, 1;",
        f"shr.u32 own_cell, lane, {lanes.bit_length() - 1};",
        f"mad.lo.u32 own_cell, odd, {STRIP // shared.beside}, own_cell;",
        f"and.b32 own_channel, lane, {lanes - 2}; mul.lo.u32 own_channel, own_channel, 4;",
    ]


def _add_two_strips(shared: Shared, other: str) -> list[str]:
    """`_add_strip` for two, where neighbouring lanes have words of other channels: one takes the first strip's words of
    both, the other the second's. Then twice as many lanes have cells side by side."""
    done, strips_of_sign = f"DONE{other}", shared.sign // STRIP
    lines = [
        f"mad.lo.u32 at, lane, 16, $1; mad.lo.u32 at, strip, {4 * STRIP}, at; mov.b32 t, 0;",
        "ld.shared.v4.b32 {word0, word1, word2, word3}, [at];",
        f"ld.shared.v4.b32 {{more0, more1, more2, more3}}, [at + {4 * STRIP}];",
        *(f"or.b32 t, t, word{n}; or.b32 t, t, more{n};" for n in range(4)),
        *(f"or.b32 t, t, {other}{n};" for n in range(8)),
        f"setp.ne.u32 p, t, 0; vote.sync.any.pred p, p, {EVERY}; @!p bra {done}; setp.ne.u32 p, odd, 0;",
    ]
    for n in range(4):
        for first, second in ((f"word{n}", f"more{n}"), (f"{other}{n}", f"{other}{n + 4}")):
            lines += [
                f"selp.b32 t, {first}, {second}, p; shfl.sync.bfly.b32 t, t, 1, 31, {EVERY};",
                f"selp.b32 {first}, t, {first}, p; selp.b32 {second}, {second}, t, p;",
            ]
    lines += [
        f"div.u32 j, strip, {strips_of_sign}; mad.lo.u32 strip, j, {-strips_of_sign}, strip;",
        f"mul.lo.u32 sign, j, {1 << (8 + shared.mantissa_bits)};",
        f"mad.lo.u32 strip, strip, {STRIP // shared.beside}, own_cell;",
    ]
    for n in range(8):
        word = f"word{n}" if n < 4 else f"more{n - 4}"
        lines += [
            f"add.u32 channel, own_channel, {n}; mov.b32 cell, strip;",
            *_add_cell(shared, word, f"{other}{n}"),
        ]
    return [*lines, f"{done}:"]


def _begin_with(shared: Shared, strips: int) -> list[str]:
    """The warp's first strip i, and its number `stop` among those that are looked at."""
    return [
        ".reg .b32 lane, i, stop, at, strip, sign, j, cell, key, t, channel, zero, word<4>, sum;",
        ".reg .pred p, inside, any; .reg .b64 to, wide; mov.b32 zero, 0; mov.u32 lane, %laneid;",
        f"mov.u32 stop, %tid.x; shr.u32 stop, stop, 5; rem.u32 i, $4, {strips}; add.u32 i, i, stop;",
        f"setp.ge.u32 p, stop, {strips}; @p bra THROUGH; setp.ge.u32 p, i, {strips}; @p sub.u32 i, i, {strips};",
    ]


def _add_strip(shared: Shared, other: str, then: str = "") -> list[str]:
    """Add a strip to the tables, with the words of another program, if `other` names them. then: what is done once it
    is read, if not all of it is empty."""
    done, strips_of_sign = f"DONE{other}", shared.sign // STRIP
    return [
        f"mad.lo.u32 at, lane, 16, $1; mad.lo.u32 at, strip, {4 * STRIP}, at;",
        "ld.shared.v4.b32 {word0, word1, word2, word3}, [at]; mov.b32 t, 0;",
        *(f"or.b32 t, t, word{n};" + (f"or.b32 t, t, {other}{n};" if other else "") for n in range(4)),
        f"setp.ne.u32 p, t, 0; vote.sync.any.pred p, p, {EVERY}; @!p bra {done};",
        then,
        f"div.u32 j, strip, {strips_of_sign}; mad.lo.u32 strip, j, {-strips_of_sign}, strip;",
        f"and.b32 sign, j, 1; shr.u32 j, j, 1; mul.lo.u32 sign, sign, {1 << (8 + shared.mantissa_bits)};",
        f"mul.lo.u32 strip, strip, {STRIP // shared.beside};",
        *(line for n in range(4) for line in _add_word(shared, n, other)),
        f"{done}:",
    ]


def _add_word(shared: Shared, n: int, other: str) -> list[str]:
    """Word n of a thread, or of two programs, to its table."""
    return [
        f"mad.lo.u32 t, lane, 4, {n}; and.b32 channel, t, {shared.beside - 1};",
        f"mad.lo.u32 channel, channel, {shared.apart}, j;",
        f"shr.u32 cell, t, {shared.beside.bit_length() - 1}; add.u32 cell, cell, strip;",
        *_add_cell(shared, f"word{n}", f"{other}{n}" if other else ""),
    ]


def _add_cell(shared: Shared, word: str, other: str) -> list[str]:
    """A word, or those of two programs, of a channel's cell."""
    mask = (1 << shared.sum_bits) - 1
    return [
        f"setp.lt.u32 inside, cell, {shared.span >> shared.finer};",
        f"mad.lo.u32 t, channel, 4, $1; ld.shared.b32 key, [t + {4 * (shared.misc + LOWS)}];",
        f"add.u32 key, key, {shared.bias}; shr.u32 key, key, {shared.finer}; add.u32 key, key, cell;",
        f"shl.b32 key, key, {shared.coarser}; add.u32 key, key, sign;",
        "mad.wide.u32 to, channel, $3, $2; mul.wide.u32 wide, key, 8; add.u64 to, to, wide;",
        f"shr.u32 t, {word}, {shared.sum_bits}; and.b32 sum, {word}, {mask};",
        f"shr.u32 key, {other}, {shared.sum_bits}; add.u32 t, t, key;" if other else "",
        f"and.b32 key, {other}, {mask}; add.u32 sum, sum, key;" if other else "",
        f"shl.b32 sum, sum, {8 - shared.position_bits};",
        "setp.ne.and.u32 any, t, 0, inside; cvt.u64.u32 wide, t;",
        "" if other else "@any add.u32 away, away, t;",
        f"mad.wide.u32 wide, sum, {1 << COUNT_BITS}, wide; @any red.global.add.u64 [to], wide;",
    ]
