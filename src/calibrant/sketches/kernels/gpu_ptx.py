"""The inner loop of `gpu_fast` as PTX, NVIDIA's assembly: Triton has no way to say that shared memory is added to.

Each of these is inlined where 16 elements of a thread are in registers. In shared memory there are, in words of 32 bits,
for each sign a stretch of `stride` counters, and of float32 as many sums of positions behind them. A stretch begins with
the `cells` of a window that ends somewhere on the number line; the next word takes zeros and everything outside.
What is outside and not zero is rare if the window is well placed. It is taken off that word again: finite values go
straight to the table in global memory, and NaN and Inf to counters of their own.

The extremes are kept for each warp, as the highest value so far and how many equal it; and the lowest. Most often a warp
sees no value as far out as its extremes: then that is all that has to be found out.
"""

from __future__ import annotations

from dataclasses import dataclass

ELEMENTS = 16  # of one thread
# From word `misc` on: counters; for each lane of a warp a word that nobody reads; what `end` finds; and for each warp a
# word at each of the others. TOP and BOTTOM are float32 bits.
NAN, POS_INF, NEG_INF, IDLE, FOUND, TOP, N_TOP, BOTTOM, N_BOTTOM, MISC_WORDS = 0, 1, 2, 32, 64, 128, 160, 192, 224, 256


@dataclass(frozen=True, slots=True)
class Shared:
    """How shared memory is used: see above. mantissa_bits are those of the table in global memory; kind is what is
    counted: "f32", "bf16" or "f16"."""

    kind: str
    mantissa_bits: int
    threads: int
    cells: int
    stride: int
    misc: int


def begin(shared: Shared) -> str:
    """For each thread once: nothing is counted yet. $1: the address of shared memory."""
    return _block(
        [
            ".reg .b32 at, end, zero; .reg .pred p;",
            f"mov.b32 zero, 0; mov.u32 at, %tid.x; mad.lo.u32 at, at, 16, $1; add.u32 end, $1, {4 * (shared.misc + TOP)};",
            "NEXT: setp.lt.u32 p, at, end; @!p bra DONE;",
            f"st.shared.v4.b32 [at], {{zero, zero, zero, zero}}; add.u32 at, at, {16 * shared.threads}; bra NEXT;",
            "DONE: mov.u32 at, %tid.x; setp.lt.u32 p, at, 32; @!p bra OTHERS;",
            f"mad.lo.u32 at, at, 4, $1; add.u32 at, at, {4 * shared.misc}; mov.b32 end, 0xff800000;",
            f"st.shared.b32 [at + {4 * TOP}], end; mov.b32 end, 0x7f800000; st.shared.b32 [at + {4 * BOTTOM}], end;",
            f"st.shared.b32 [at + {4 * N_TOP}], zero; st.shared.b32 [at + {4 * N_BOTTOM}], zero;",
            "OTHERS:",
        ]
    )


def end(shared: Shared) -> str:
    """For each thread once: add the counters to the table, and leave in FOUND, as words, the negated lowest ordered
    value, the highest one, and from the ninth on their hits, zeros, NaN, +Inf and -Inf.

    $1: the address of shared memory, $2: of the table, $3: the window's lowest bits, $4: where to begin, times 32."""
    lines = [
        ".reg .b32 i, at, count, sum, sign, cell, key, stop, bits, misc, other, t; .reg .b64 to, wide;",
        ".reg .pred p, inside, any; .reg .b16 h;",
        f"mov.u32 i, %tid.x; rem.u32 t, $4, {2 * shared.stride // 32}; mad.lo.u32 i, t, 32, i; mov.b32 stop, 0;",
        "NEXT:",
        *_add_to_table(shared),
        f"add.u32 i, i, {shared.threads}; add.u32 stop, stop, {shared.threads};",
        f"setp.lt.u32 p, stop, {2 * shared.stride}; @p bra NEXT;",
        "mov.u32 i, %tid.x; setp.lt.u32 p, i, 32; @!p bra OTHERS;",
        f"add.u32 misc, $1, {4 * shared.misc}; mad.lo.u32 at, i, 4, misc;",
    ]
    for place, hits, end_of_line, further, to in (
        (BOTTOM, N_BOTTOM, 0x7F800000, "min", 0),
        (TOP, N_TOP, -0x7F800001, "max", 1),
    ):
        lines += [
            f"ld.shared.b32 bits, [at + {4 * place}]; ld.shared.b32 count, [at + {4 * hits}];",
            "shr.s32 t, bits, 31; and.b32 t, t, 0x7fffffff; xor.b32 key, bits, t;",
            "setp.eq.s32 p, key, -1; @p mov.b32 key, 0;",
            f"redux.sync.{further}.s32 other, key, 0xffffffff; setp.ne.s32 p, key, other; @p mov.b32 count, 0;",
            f"setp.eq.s32 p, key, {end_of_line}; @p mov.b32 count, 0;",
            "redux.sync.add.u32 count, count, 0xffffffff;",
            "neg.s32 other, other;" if place == BOTTOM else "",
            f"st.shared.b32 [misc + {4 * (FOUND + to)}], other; st.shared.b32 [misc + {4 * (FOUND + 8 + to)}], count;",
        ]
    trash = [4 * shared.cells, 4 * (shared.stride + shared.cells)]
    lines += [
        f"ld.shared.b32 count, [$1 + {trash[0]}]; ld.shared.b32 t, [$1 + {trash[1]}]; add.u32 count, count, t;",
        f"st.shared.b32 [misc + {4 * (FOUND + 10)}], count;",
    ]
    for n, counter in enumerate((NAN, POS_INF, NEG_INF)):
        lines.append(
            f"ld.shared.b32 count, [misc + {4 * counter}]; st.shared.b32 [misc + {4 * (FOUND + 11 + n)}], count;"
        )
    return _block([*lines, "OTHERS:"])


def _add_to_table(shared: Shared) -> list[str]:
    """Word i of the counters."""
    bits, positions = shared.mantissa_bits, 8 << (9 + shared.mantissa_bits)
    words = 2 * shared.stride
    lines = [
        f"setp.ge.u32 p, i, {words}; @p sub.u32 i, i, {words};",
        "mad.lo.u32 at, i, 4, $1; ld.shared.b32 count, [at];",
        f"ld.shared.b32 sum, [at + {4 * words}];" if shared.kind == "f32" else "",
        f"setp.ge.u32 p, i, {shared.stride}; selp.b32 sign, 1, 0, p; mov.b32 cell, i;",
        f"@p sub.u32 cell, i, {shared.stride}; setp.lt.u32 inside, cell, {shared.cells};",
        "setp.ne.and.u32 any, count, 0, inside;",
    ]
    if shared.kind == "f32":
        lines += [
            f"shr.u32 key, $3, {23 - bits}; add.u32 key, key, cell; shl.b32 sign, sign, {8 + bits}; add.u32 key, key, sign;",
            "mad.wide.u32 to, key, 8, $2; cvt.u64.u32 wide, count; @any red.global.add.u64 [to], wide;",
            "setp.ne.and.u32 any, sum, 0, inside; cvt.u64.u32 wide, sum;",
        ]
    else:
        lines += [
            "add.u32 key, $3, cell; shl.b32 sign, sign, 15; or.b32 key, key, sign;",
            *_widen(shared.kind, "key", "key"),
            f"shr.u32 sum, key, {15 - bits}; and.b32 sum, sum, 255; shr.u32 key, key, {23 - bits};",
            "mad.wide.u32 to, key, 8, $2; cvt.u64.u32 wide, count; @any red.global.add.u64 [to], wide;",
            "setp.ne.and.u32 any, sum, 0, any; mul.wide.u32 wide, sum, count;",
        ]
    return [*lines, f"@any red.global.add.u64 [to + {positions}], wide;"]


def count(shared: Shared) -> tuple[str, str]:
    """Count 16 elements of a thread: the assembly and its constraints.

    Inputs: the elements, as int32 or int16; the addresses of shared memory and of the global table; the bits of the
    window's lowest value, of float32 or in 16 bits."""
    return _float32(shared) if shared.kind == "f32" else _sixteen_bits(shared)


def _float32(shared: Shared) -> tuple[str, str]:
    values = [f"${ELEMENTS + k}" for k in range(ELEMENTS)]
    own, table, low = (f"${(2 + n) * ELEMENTS}" for n in range(3))
    shift = 23 - shared.mantissa_bits
    span, sums = shared.cells << shift, 8 * shared.stride
    lines = [
        ".reg .b32 a<16>, u, s, t, q, idle, nearest, highest, lowest, mx, mn, warp, top, bottom, hits, bits;",
        ".reg .b64 to, wide; .reg .pred p, r, outside;",
        f"mov.b32 nearest, -1; mov.b32 mx, {values[0]}; mov.b32 mn, {values[0]};",
        # Where a position is 0, nothing is added to a word of the lane's own: faster than to branch around the addition,
        # and than to add nothing to the word of an atom, where lanes would queue up.
        f"mov.u32 idle, %laneid; mad.lo.u32 idle, idle, 4, {own}; add.u32 idle, idle, {4 * (shared.misc + IDLE) - sums};",
    ]
    for k, x in enumerate(values):
        lines += [
            f"and.b32 a{k}, {x}, 0x7fffffff; sub.u32 u, a{k}, {low}; min.u32 u, u, {span};",
            f"shr.u32 t, u, {shift}; shr.u32 s, {x}, 31; mad.lo.u32 s, s, {4 * shared.stride}, {own};",
            "mad.lo.u32 t, t, 4, s; red.shared.add.u32 [t], 1;",
            f"shr.u32 q, u, {shift - 8}; and.b32 q, q, 255; setp.ne.u32 p, q, 0;",
            f"selp.b32 t, t, idle, p; red.shared.add.u32 [t + {sums}], q;",
            f"add.u32 u, a{k}, -1; min.u32 nearest, nearest, u;",
            f"max.NaN.f32 mx, mx, {x}; min.NaN.f32 mn, mn, {x};" if k else "",
        ]
    lines += [
        f"add.u32 highest, {low}, {span}; or.b32 lowest, highest, 0x80000000; add.u32 u, {low}, -1;",
        "setp.lt.u32 p, nearest, u; setp.geu.or.f32 p, mx, highest, p; setp.leu.or.f32 p, mn, lowest, p;",
        "@!p bra INSIDE;",
        "mov.b32 mx, 0xff800000; mov.b32 mn, 0x7f800000;",
    ]
    for k, x in enumerate(values):
        lines += _outside(shared, x, f"a{k}", own, table, f"sub.u32 u, a{k}, {low}; setp.ge.u32 outside, u, {span};")
    lines.append("INSIDE:")
    lines += _extremes(shared, own, [f"setp.eq.u32 p, {x}, bits; @p add.u32 hits, hits, 1;" for x in values])
    return _wrapped(lines, ELEMENTS)


def _sixteen_bits(shared: Shared) -> tuple[str, str]:
    half = shared.kind
    words = ELEMENTS // 2
    values = [f"${words + k}" for k in range(words)]
    own, table, low = (f"${2 * words + n * ELEMENTS}" for n in range(3))
    infinite = 0x7F80 if half == "bf16" else 0x7C00
    lines = [
        ".reg .b32 a<8>, u, s, t, q, nearest, highest, lowest, mx, mn, warp, top, bottom, hits, bits, lows, ends, ones, x;",
        ".reg .b64 to, wide; .reg .pred p, r, outside; .reg .b16 h, g;",
        f"mov.b32 nearest, -1; mov.b32 ones, -1; mov.b32 mx, {values[0]}; mov.b32 mn, {values[0]};",
        f"mov.b32 ends, {shared.cells * 0x10001}; sub.u32 lows, 65536, {low}; mul.lo.u32 lows, lows, 65537;",
    ]
    for k, x in enumerate(values):
        lines += [
            f"and.b32 a{k}, {x}, 0x7fff7fff; add.u16x2 u, a{k}, lows; min.u16x2 u, u, ends;",
            f"shr.u32 s, {x}, 15; and.b32 s, s, 0x00010001; mad.lo.u32 u, s, {shared.stride}, u;",
            f"and.b32 t, u, 0xffff; shr.u32 u, u, 16; mad.lo.u32 t, t, 4, {own}; mad.lo.u32 u, u, 4, {own};",
            "red.shared.add.u32 [t], 1; red.shared.add.u32 [u], 1;",
            f"add.u16x2 u, a{k}, ones; min.u16x2 nearest, nearest, u;",
            f"max.NaN.{half}x2 mx, mx, {x}; min.NaN.{half}x2 mn, mn, {x};" if k else "",
        ]
    lines += [
        "mov.b32 {h, g}, nearest; min.u16 h, h, g; cvt.u32.u16 nearest, h;",
        *_widened(half, "mx", "max"),
        *_widened(half, "mn", "min"),
        f"add.u32 highest, {low}, {shared.cells}; min.u32 highest, highest, {infinite};",
        *_widen(half, "highest", "highest"),
        f"or.b32 lowest, highest, 0x80000000; add.u32 u, {low}, -1;",
        "setp.lt.u32 p, nearest, u; setp.geu.or.f32 p, mx, highest, p; setp.leu.or.f32 p, mn, lowest, p;",
        "@!p bra INSIDE;",
        "mov.b32 mx, 0xff800000; mov.b32 mn, 0x7f800000;",
    ]
    for k, pair in enumerate(values):
        for part in (f"and.b32 q, {pair}, 0xffff;", f"shr.u32 q, {pair}, 16;"):
            window = f"and.b32 u, q, 0x7fff; sub.u32 u, u, {low}; setp.ge.u32 outside, u, {shared.cells};"
            lines += [part, *_widen(half, "x", "q"), f"and.b32 a{k}, x, 0x7fffffff;"]
            lines += _outside(shared, "x", f"a{k}", own, table, window)
    lines.append("INSIDE:")
    equal = []
    for pair in values:
        equal += [
            f"and.b32 q, {pair}, 0xffff; setp.eq.u32 p, q, bits; @p add.u32 hits, hits, 1;",
            f"shr.u32 q, {pair}, 16; setp.eq.u32 p, q, bits; @p add.u32 hits, hits, 1;",
        ]
    narrow = "shr.u32 bits, bits, 16;" if half == "bf16" else "cvt.rn.f16.f32 h, bits; cvt.u32.u16 bits, h;"
    lines += _extremes(shared, own, [narrow, *equal])
    return _wrapped(lines, words)


def _widen(half: str, to: str, pattern: str) -> list[str]:
    """Float32 bits of the 16 bits in `pattern`."""
    if half == "bf16":
        return [f"shl.b32 {to}, {pattern}, 16;"]
    return [f"cvt.u16.u32 h, {pattern}; cvt.f32.f16 {to}, h;"]


def _widened(half: str, pair: str, further: str) -> list[str]:
    """Float32 bits of the further of the two in `pair`; NaN where one of them is."""
    return [
        f"and.b32 u, {pair}, 0xffff; shr.u32 t, {pair}, 16;",
        *_widen(half, "u", "u"),
        *_widen(half, "t", "t"),
        f"{further}.NaN.f32 {pair}, u, t;",
    ]


def _outside(shared: Shared, x: str, magnitude: str, own: str, table: str, window: str) -> list[str]:
    """An element of a thread that has one outside the window. x: its float32 bits; window: sets `outside`."""
    shift, sums = 23 - shared.mantissa_bits, 8 << (9 + shared.mantissa_bits)
    misc = 4 * shared.misc
    return [
        f"{window} setp.ne.and.u32 outside, {magnitude}, 0, outside;",
        f"shr.u32 s, {x}, 31; mad.lo.u32 t, s, {4 * shared.stride}, {own};",
        f"@outside red.shared.add.u32 [t + {4 * shared.cells}], -1;",
        f"setp.ge.u32 r, {magnitude}, 0x7f800000; setp.gt.u32 p, {magnitude}, 0x7f800000;",
        f"@!r max.f32 mx, mx, {x}; @!r min.f32 mn, mn, {x};",
        f"mad.lo.u32 t, s, 4, {4 * POS_INF}; @p mov.b32 t, {4 * NAN}; add.u32 t, t, {own};",
        f"@r red.shared.add.u32 [t + {misc}], 1;",
        "not.pred r, r; and.pred outside, outside, r;",
        f"shr.u32 t, {x}, {shift}; mad.wide.u32 to, t, 8, {table}; mov.b64 wide, 1;",
        "@outside red.global.add.u64 [to], wide;",
        f"shr.u32 t, {x}, {shift - 8}; and.b32 t, t, 255; cvt.u64.u32 wide, t; setp.ne.and.u32 outside, t, 0, outside;",
        f"@outside red.global.add.u64 [to + {sums}], wide;",
    ]


def _extremes(shared: Shared, own: str, equal: list[str]) -> list[str]:
    """Update the warp's extremes by mx and mn. equal: adds the elements that equal `bits` to `hits`."""
    at = 4 * shared.misc
    lines = [
        f"mov.u32 warp, %tid.x; shr.u32 warp, warp, 5; mad.lo.u32 warp, warp, 4, {own};",
        f"ld.shared.u32 top, [warp + {at + 4 * TOP}]; ld.shared.u32 bottom, [warp + {at + 4 * BOTTOM}];",
        # The hits of zero are the zeros, which are counted anyway: else half a tensor of zeros would be slow.
        "setp.neu.f32 r, top, 0f00000000; setp.eq.and.f32 r, mx, top, r; setp.gt.or.f32 p, mx, top, r;",
        "setp.neu.f32 r, bottom, 0f00000000; setp.eq.and.f32 r, mn, bottom, r; setp.lt.or.f32 r, mn, bottom, r;",
        "or.pred p, p, r; vote.sync.any.pred p, p, 0xffffffff; @!p bra DONE;",
    ]
    for found, end, further, or_equal, place, hits in (
        ("mx", "top", "max", "ge", TOP, N_TOP),
        ("mn", "bottom", "min", "le", BOTTOM, N_BOTTOM),
    ):
        lines += [
            f"shr.s32 t, {found}, 31; and.b32 t, t, 0x7fffffff; xor.b32 t, t, {found};",
            f"redux.sync.{further}.s32 t, t, 0xffffffff;",
            f"shr.s32 {found}, t, 31; and.b32 {found}, {found}, 0x7fffffff; xor.b32 {found}, {found}, t;",
            f"mov.b32 bits, {found}; mov.b32 hits, 0;",
            *equal,
            "redux.sync.add.u32 hits, hits, 0xffffffff;",
            f"ld.shared.u32 t, [warp + {at + 4 * hits}]; setp.eq.f32 p, {found}, {end}; @p add.u32 hits, hits, t;",
            f"setp.{or_equal}.f32 p, {found}, {end};",
            f"@p st.shared.u32 [warp + {at + 4 * place}], {found}; @p st.shared.u32 [warp + {at + 4 * hits}], hits;",
        ]
    return [*lines, "bar.warp.sync 0xffffffff;", "DONE:"]


def _wrapped(lines: list[str], registers: int) -> tuple[str, str]:
    """With constraints, and outputs that nobody reads."""
    ends = [f"mov.b32 ${k}, 0;" for k in range(registers)]
    each = [",".join([kind] * ELEMENTS) for kind in ("r", "l", "r")]
    constraints = ",".join(["=r"] * registers + ["r"] * registers + each)
    return "\n".join(["{", *lines, *ends, "}"]), constraints


def _block(lines: list[str]) -> str:
    """In braces, which keep labels and registers apart, with one output that nobody reads."""
    return "\n".join(["{", *lines, "mov.b32 $0, 0;", "}"])
