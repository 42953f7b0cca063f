"""The inner loops of `gpu_last` as PTX, as `gpu_ptx` has those of `gpu_fast`: see `gpu_last_layout`.

Most often a warp counts what is all inside the windows and no further out than its extremes. The rest is found in
steps, each for fewer: zeros; values outside; what is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence

from calibrant.sketches.kernels.gpu_last_layout import (
    EVERY,
    NEAR_ZERO,
    ONES,
    SKIPPED,
    SKIPPED_WORDS,
    Shared,
)
from calibrant.sketches.kernels.gpu_last_ptx import elsewhere, fetch, settle, widened
from calibrant.sketches.kernels.gpu_ptx import block

_AND_OR, _XOR_OR = "0xEA", "0xBE"  # of lop3: a & b | c, (a ^ b) | c


def count(shared: Shared) -> tuple[str, str]:
    """Count some elements of a thread, int32 or int16, whose channels take turns: the assembly and its constraints."""
    words = shared.registers
    lines = _count(shared, [f"${words + k}" for k in range(words)])
    lines += [f"mov.b32 ${k}, 0;" for k in range(words)]
    return "\n".join(["{", *lines, "}"]), ",".join(["=r"] * words + ["r"] * words)


def again(shared: Shared) -> tuple[str, str]:
    """Add to their words the elements of a tile all else of which is counted already: the assembly and its
    constraints."""
    words, narrow = shared.registers, shared.kind != "f32"
    inputs = [f"${words + k}" for k in range(words)]
    lines = [
        ".reg .b32 x, a, u, s, t, q, far; .reg .pred p, any; .reg .b16 h, g;",
        *_bit(shared, "nth"),
        "ld.shared.b32 s, [q]; and.b32 s, s, t; setp.ne.u32 p, s, 0; add.u32 nth, nth, 1; @p bra SKIPPED;",
        *(_sixteen_bits(shared, inputs) if narrow else _float32(shared, inputs)),
        "SKIPPED:",
        *(f"mov.b32 ${k}, 0;" for k in range(words)),
    ]
    return "\n".join(["{", *lines, "}"]), ",".join(["=r"] * words + ["r"] * words)


def _bit(shared: Shared, nth: str) -> list[str]:
    """Where the warp has a bit for its nth tile: q, and that bit: t."""
    return [
        f"mov.u32 q, %tid.x; shr.u32 q, q, 5; shr.u32 t, {nth}, 5; and.b32 t, t, {SKIPPED_WORDS - 1};",
        f"mad.lo.u32 t, q, {SKIPPED_WORDS}, t; mov.u32 q, global_smem; mad.lo.u32 q, t, 4, q;",
        f"add.u32 q, q, {4 * (shared.misc + SKIPPED)}; and.b32 s, {nth}, 31; mov.b32 t, 1; shl.b32 t, t, s;",
    ]


def count_next(shared: Shared) -> str:
    """For each thread: the same for its elements of the next slot, which then is for another tile.

    A slot is given away in either branch after the first vote: once it is known how that ends, all has been read."""
    words, each = shared.registers, shared.row
    several = ".b32" if each == 1 else f".v{each}.b32"
    lines = [
        f".reg .b32 in<{words}>, at, mine, bar, odd; .reg .pred there;",
        f"and.b32 at, taken, {shared.slots - 1}; mad.lo.u32 bar, at, 8, bars; mad.lo.u32 at, at, {shared.slot}, ring;",
        f"shr.u32 odd, taken, {shared.slots.bit_length() - 1}; and.b32 odd, odd, 1; add.u32 taken, taken, 1;",
        f"mov.u32 mine, %laneid; mad.lo.u32 mine, mine, {4 * each}, at;",
        "WAIT: mbarrier.try_wait.parity.shared.b64 there, [bar], odd; @!there bra WAIT;",
        *(
            f"ld.volatile.shared{several} {{{', '.join(f'in{k + j}' for j in range(each))}}}, [mine + {128 * k}];"
            for k in range(0, words, each)
        ),
        *_count(shared, [f"in{k}" for k in range(words)], fetch(shared, "bar", "at")),
    ]
    return block(lines)


def _count(shared: Shared, inputs: list[str], then: Sequence[str] = ()) -> list[str]:
    """then: what is done as soon as all inputs are in registers."""
    narrow = shared.kind != "f32"
    # Of 16 bits an element is widened to `x` wherever it is looked at: registers are few.
    values = [("", x) for x in inputs]
    if narrow:
        values = [(widened(shared.kind, word, upper), "x") for word in inputs for upper in (False, True)]
    lines = [
        f".reg .b32 x, mx<{shared.vector}>, mn<{shared.vector}>, a, u, s, t, q, far, both; .reg .b64 to, wide;",
        ".reg .pred p, r, any, further; .reg .b16 h, g;",
        *_repeated(shared, inputs, then),
        *(_sixteen_bits(shared, inputs) if narrow else _float32(shared, inputs)),
        *(_furthest16(shared.kind, inputs) if narrow else _furthest32(inputs)),
        f"or.pred p, any, further; vote.sync.any.pred p, p, {EVERY}; @!p bra COUNTED;",
        *(_widened_ends(shared.kind) if narrow else []),
        f"vote.sync.any.pred any, any, {EVERY}; @!any bra INSIDE;",
        *(_zeros16(shared, inputs) if narrow else _zeros32(inputs)),
        f"vote.sync.any.pred any, any, {EVERY}; @!any bra INSIDE;",
        *_outside(shared, inputs, values),
        f"vote.sync.any.pred any, any, {EVERY}; @!any bra INSIDE;",
        *(f"mov.b32 mx{j}, 0xff800000; mov.b32 mn{j}, 0x7f800000;" for j in range(shared.vector)),
    ]
    for k, (widen, x) in enumerate(values):
        j = k % shared.vector
        lines.append(f"{widen} and.b32 a, {x}, 0x7fffffff; setp.lt.u32 r, a, 0x7f800000;")
        lines.append(f"@r max.f32 mx{j}, mx{j}, {x}; @r min.f32 mn{j}, mn{j}, {x};")
    return [*lines, "INSIDE:", *_extremes(shared, values), "COUNTED:"]


def _repeated(shared: Shared, inputs: list[str], then: Sequence[str]) -> list[str]:
    """Go to COUNTED if each channel of the warp has one value, which is what it had when that was last so: that is
    counted in a register, for else all lanes of a channel would queue up for one word."""
    row = shared.row
    lines = [
        f"setp.eq.b32 p, {inputs[0]}, {inputs[-row]}; setp.eq.and.b32 p, {inputs[row - 1]}, {inputs[-1]}, p;",
        f"vote.sync.all.pred p, p, {EVERY}; @p bra ALIKE;",
        *then,
        "bra DIFFERENT; ALIKE:",
        *then,
        "setp.eq.u32 p, 0, 0;",
        *(f"setp.eq.and.b32 p, {x}, same{k % row}, p;" for k, x in enumerate(inputs)),
        f"vote.sync.all.pred p, p, {EVERY}; @!p bra ANOTHER; add.u32 repeats, repeats, 1;",
        *(["add.u32 u, taken, -1;", *_bit(shared, "u"), "@leads red.shared.or.b32 [q], t;"] if then else []),
        "bra COUNTED; ANOTHER:",
        *settle(shared),
        f"mov.u32 t, %laneid; and.b32 t, t, {shared.across - 1};",
        *(f"shfl.sync.idx.b32 same{n}, {inputs[n]}, t, 31, {EVERY};" for n in range(row)),
    ]
    return [*lines, "DIFFERENT:"]


def _float32(shared: Shared, inputs: list[str]) -> list[str]:
    """Add each to its word, and find whether `any` has none, and how many: `far`. Then the address is where nobody
    reads: that is faster than to leave it out."""
    finer, position = shared.finer, shared.position_bits
    lines = ["mov.b32 far, 0;"]
    for k, x in enumerate(inputs):
        j = k % shared.vector
        lines += [
            f"and.b32 a, {x}, 0x7fffffff; sub.u32 u, a, low{j};",
            f"setp.ge.u32 p, u, {shared.span}; @p add.u32 far, far, 1;",
            f"shr.u32 s, {x}, 31; mad.lo.u32 s, s, {4 * shared.sign}, own{j}; shr.u32 t, u, {finer};",
            f"mad.lo.u32 t, t, {4 * shared.across}, s; selp.b32 t, unread, t, p;",
            f"shr.u32 q, u, {finer - position}; lop3.b32 q, q, {2**position - 1}, one, {_AND_OR};",
            "red.shared.add.u32 [t], q;",
        ]
    return [*lines, "setp.ne.u32 any, far, 0;"]


def _sixteen_bits(shared: Shared, inputs: list[str]) -> list[str]:
    """The same, two at once as long as may be. Dot products take them apart, each with one factor that is not 0: the
    pipe of logic and shifts has most to do, and that is another one."""
    finer, most = shared.finer, (4 * shared.beside).bit_length() - 1
    lines = ["mov.b32 far, 0;"]
    for pair in inputs:
        lines += [
            f"and.b32 a, {pair}, {(0x7FFF >> finer << finer) * 0x10001}; add.u16x2 u, a, low0;",
            f"max.u16x2 far, far, u; min.u16x2 u, u, ends; shr.u32 s, {pair}, 15; and.b32 s, s, {ONES};",
            f"mad.lo.u32 u, s, {shared.cells << finer}, u;" + (f"shr.u32 u, u, {finer};" if finer > most else ""),
            f"and.b32 x, {pair}, {((1 << finer) - 1) * 0x10001};",
        ]
        for n in range(2):
            lines.append(
                f"dp2a.lo.u32.u32 t, u, first{n}, own{n}; dp2a.lo.u32.u32 q, x, add{n}, one; red.shared.add.u32 [t], q;"
            )
    return [*lines, *_any_far(shared)]


def _zeros32(inputs: list[str]) -> list[str]:
    """Count zeros, and find whether `any` else has no word."""
    lines = ["add.u32 t, zeros0, zeros1; add.u32 t, t, zeros2; add.u32 t, t, zeros3; add.u32 far, far, t;"]
    for k, x in enumerate(inputs):
        lines.append(f"setp.eq.f32 p, {x}, 0f00000000; @p add.u32 zeros{k % 4}, zeros{k % 4}, 1;")
    return [*lines, "add.u32 t, zeros0, zeros1; add.u32 t, t, zeros2; add.u32 t, t, zeros3; setp.ne.u32 any, far, t;"]


def _zeros16(shared: Shared, inputs: list[str]) -> list[str]:
    """The same, two at once."""
    lines = [f"mov.b32 far, 0; mov.b32 q, {ONES}; mov.b32 s, 0;"]
    for pair in inputs:
        lines += [
            f"and.b32 a, {pair}, 0x7fff7fff; min.u16x2 t, a, q; add.u32 s, s, t;",
            "add.u16x2 u, a, low0; mul.lo.u32 t, t, 0xffff; and.b32 u, u, t; max.u16x2 far, far, u;",
        ]
    lines += [
        f"and.b32 t, s, 0xffff; sub.u32 t, {len(inputs)}, t; add.u32 zeros0, zeros0, t;",
        f"shr.u32 t, s, 16; sub.u32 t, {len(inputs)}, t; add.u32 zeros1, zeros1, t;",
    ]
    return [*lines, *_any_far(shared)]


def _any_far(shared: Shared) -> list[str]:
    return [f"mov.b32 {{h, g}}, far; max.u16 h, h, g; cvt.u32.u16 u, h; setp.ge.u32 any, u, {shared.span};"]


def _furthest32(inputs: list[str]) -> list[str]:
    """The extremes mx and mn of each channel, NaN left out, and whether any is `further` than before or as far; where
    there is Inf, that is wrong, and nobody minds."""
    lines = ["setp.ne.u32 further, 0, 0;"]
    for found, most, end, further in (("mx", "max", "top", "ge"), ("mn", "min", "bottom", "le")):
        for j in range(4):
            lines.append(f"mov.b32 {found}{j}, {inputs[j]};")
            lines += [f"{most}.f32 {found}{j}, {found}{j}, {x};" for x in inputs[j + 4 :: 4]]
            lines.append(f"setp.{further}.or.f32 further, {found}{j}, {end}{j}, further;")
    return lines


def _furthest16(kind: str, inputs: list[str]) -> list[str]:
    """The same of both channels at once, mx0 and mn0, with what is next below the extremes of before and next above."""
    lines = ["mov.b32 t, 0;"]
    for found, most, end in (("mx0", "max", "below0"), ("mn0", "min", "above0")):
        lines.append(f"mov.b32 {found}, {end};")
        lines += [f"{most}.{kind}x2 {found}, {found}, {x};" for x in inputs]
        lines.append(f"lop3.b32 t, {found}, {end}, t, {_XOR_OR};")
    return [*lines, "setp.ne.u32 further, t, 0;"]


def _widened_ends(kind: str) -> list[str]:
    """mx and mn of each channel as float32."""
    lines = []
    for found in ("mx", "mn"):
        lines += [
            f"mov.b32 q, {found}0; {widened(kind, 'q', True)} mov.b32 {found}1, x;",
            f"{widened(kind, 'q', False)} mov.b32 {found}0, x;",
        ]
    return lines


def _beside_ends(kind: str) -> list[str]:
    """Of 16 bits: `below` each top the next value, and `above` each bottom."""
    lines = []
    for end, beside, sign in (("top", "below", 1), ("bottom", "above", -1)):
        for j in range(2):
            if kind == "bf16":
                lines.append(f"shr.u32 t, {end}{j}, 16;")
            else:
                lines.append(f"cvt.rz.f16.f32 h, {end}{j}; cvt.u32.u16 t, h;")
            lines += [
                f"shr.u32 q, t, 15; mad.lo.s32 q, q, {2 * sign}, {-sign}; and.b32 s, t, 0x7fff;",
                "setp.eq.u32 p, s, 0; @p mov.b32 q, 0; add.u32 t, t, q;",
                f"mad.lo.u32 {beside}0, t, 0x10000, {beside}0;" if j else f"mov.b32 {beside}0, t;",
            ]
    return lines


def _outside(shared: Shared, inputs: list[str], values: list[tuple[str, str]]) -> list[str]:
    """Look at elements one by one, and find whether `any` is not finite."""
    lines = ["setp.ne.u32 any, 0, 0;"]
    if shared.kind == "f32":
        for k, x in enumerate(inputs):
            lines += [f"and.b32 a, {x}, 0x7fffffff; sub.u32 u, a, low{k % 4};", *_looked_at(shared, x, k)]
        return lines
    lines.append(f"mov.b32 far, {(shared.span - 1) * 0x10001};")
    for n, pair in enumerate(inputs):
        lines += [
            f"and.b32 a, {pair}, 0x7fff7fff; add.u16x2 both, a, low0;",
            f"max.u16x2 t, both, far; setp.eq.u32 p, t, far; @p bra NEAR{n};",
        ]
        for upper in range(2):
            widen, x = values[2 * n + upper]
            cut = "shr.u32 u, both, 16;" if upper else "and.b32 u, both, 0xffff;"
            lines += [widen, f"and.b32 a, {x}, 0x7fffffff; {cut}", *_looked_at(shared, x, 2 * n + upper)]
        lines.append(f"NEAR{n}:")
    return lines


def _looked_at(shared: Shared, x: str, k: int) -> list[str]:
    """Element k of a thread, x its float32 bits, a these of its magnitude, u how far above its window's begin: if it is
    outside or not finite, it is counted."""
    return [
        f"setp.ge.u32 p, u, {shared.span}; setp.ne.and.u32 p, a, 0, p; @!p bra DONE{k};",
        "setp.ge.u32 r, a, 0x7f800000; or.pred any, any, r;",
        *elsewhere(shared, x, k % shared.vector, "1", f"DONE{k}"),
        f"DONE{k}:",
    ]


def _extremes(shared: Shared, values: list[tuple[str, str]]) -> list[str]:
    """Update the extremes by mx and mn, and the thread's hits of them."""
    ends = (("top", "mx", "ge", "gt", "max", NEAR_ZERO), ("bottom", "mn", "le", "lt", "min", 0x80000000 | NEAR_ZERO))
    lines = ["setp.ne.u32 p, 0, 0;"]
    for end, found, or_equal, *_ in ends:
        lines += [f"setp.{or_equal}.or.f32 p, {found}{j}, {end}{j}, p;" for j in range(shared.vector)]
    lines.append(f"vote.sync.any.pred p, p, {EVERY}; @!p bra SAME;")
    for end, found, or_equal, further, furthest, near_zero in ends:
        for j in range(shared.vector):
            lines += [
                f"setp.{or_equal}.f32 p, {found}{j}, {end}{j}; vote.sync.any.pred p, p, {EVERY};",
                f"@!p bra SAME_{end}{j};",
                f"mov.b32 t, {found}{j};",
                *(f"shfl.sync.bfly.b32 q, t, {mask}, 31, {EVERY}; {furthest}.f32 t, t, q;" for mask in shared.masks),
                f"setp.{further}.f32 p, t, {end}{j}; @p mov.b32 n_{end}{j}, 0; @p mov.b32 {end}{j}, t;",
                *(
                    f"{widen} setp.eq.f32 p, {x}, {end}{j}; @p add.u32 n_{end}{j}, n_{end}{j}, 1;"
                    for widen, x in values[j :: shared.vector]
                ),
                f"setp.eq.f32 p, {end}{j}, 0f00000000; @p mov.b32 n_{end}{j}, 0; @p mov.b32 {end}{j}, {near_zero:#x};",
                f"SAME_{end}{j}:",
            ]
    return [*lines, *(_beside_ends(shared.kind) if shared.kind != "f32" else []), "SAME:"]
