"""What counts some elements of each thread, for `gpu_fast`: see `gpu_ptx`."""

from __future__ import annotations

from calibrant.sketches.kernels.gpu_ptx import NAN, OUTSIDE, PACKED_COUNT, POS_INF, TURN, Shared, widen
from calibrant.sketches.kernels.gpu_words import COUNT_BITS, FULL, UNIT_BITS


def count(shared: Shared, packed: bool = False, again: bool = False, constant: bool = False) -> tuple[str, str]:
    """Count some elements of a thread: the assembly and its constraints.

    Inputs: the elements, as int32 or int16; the addresses of shared memory and of the global table; the bits of the
    window's lowest value, of float32 or in 16 bits. again: all that is not in words is counted already. constant: be
    fast where a warp has one value, as unpacked float32 is anyway."""
    return _float32(shared, packed, again) if shared.kind == "f32" else _sixteen_bits(shared, constant)


def _float32(shared: Shared, packed: bool, again: bool) -> tuple[str, str]:
    count = shared.elements
    values = [f"${count + k}" for k in range(count)]
    own, table, low = (f"${(2 + n) * count}" for n in range(3))
    shift = 23 - shared.mantissa_bits
    span, sums = shared.cells << shift, 8 * shared.stride
    lines = [
        f".reg .b32 a<{count}>, u, s, t, q, one, nearest, highest, lowest, mx, mn, hits, bits;",
        ".reg .b64 to, wide; .reg .pred p, r, outside;",
        f"mov.b32 nearest, -1; mov.b32 mx, {values[0]}; mov.b32 mn, {values[0]}; mov.b32 one, {1 << PACKED_COUNT};",
    ]
    for k, x in enumerate(values):
        lines += [
            f"and.b32 a{k}, {x}, 0x7fffffff; add.u32 u, a{k}, -1; min.u32 nearest, nearest, u;",
            f"max.NaN.f32 mx, mx, {x}; min.NaN.f32 mn, mn, {x};" if k else "",
        ]
    if not packed:
        lines += _if_all_equal(values[0], "a0")
        lines += [
            *_place(shared, values[0], "a0", own, low),
            f"mov.b32 u, {32 * count}; @p red.shared.add.u32 [t], u;",
            f"mul.lo.u32 q, q, u; setp.ne.and.u32 p, q, 0, p; @p red.shared.add.u32 [t + {sums}], q; bra COUNTED;",
            "DIFFERENT:",
        ]
    for k, x in enumerate(values):
        lines += _place(shared, x, f"a{k}", own, low)
        if packed:
            lines.append("or.b32 q, q, one; red.shared.add.u32 [t], q;")
        else:
            lines.append(f"red.shared.add.u32 [t], 1; setp.ne.u32 p, q, 0; @p red.shared.add.u32 [t + {sums}], q;")
    lines += [
        "COUNTED:",
        f"add.u32 highest, {low}, {span}; or.b32 lowest, highest, 0x80000000; add.u32 u, {low}, -1;",
        "setp.lt.u32 p, nearest, u; setp.geu.or.f32 p, mx, highest, p; setp.leu.or.f32 p, mn, lowest, p;",
        "@!p bra INSIDE;",
        "mov.b32 mx, 0xff800000; mov.b32 mn, 0x7f800000;",
    ]
    for k, x in enumerate(values):
        window = f"sub.u32 u, a{k}, {low}; setp.ge.u32 outside, u, {span};"
        lines += _outside(shared, x, f"a{k}", own, table, window, packed, again)
    lines.append("INSIDE:")
    if not again:
        lines += _extremes([f"setp.eq.u32 r, {x}, bits; @r add.u32 hits, hits, 1;" for x in values])
    return _wrapped(lines, count, count)


def _place(shared: Shared, x: str, magnitude: str, own: str, low: str) -> list[str]:
    """The address t of a float32's counter, and its position q; 0 where it goes to the word behind the window."""
    shift = 23 - shared.mantissa_bits
    return [
        f"sub.u32 u, {magnitude}, {low}; min.u32 u, u, {shared.cells << shift};",
        f"shr.u32 t, u, {shift}; shr.u32 s, {x}, 31; mad.lo.u32 s, s, {shared.negative}, {own};",
        f"mad.lo.u32 t, t, 4, s; shr.u32 q, u, {shift - 8}; and.b32 q, q, 255;",
    ]


def _if_all_equal(x: str, magnitude: str) -> list[str]:
    """Go on to what follows if all elements of the warp are one finite value, p being true of one lane; else go to
    DIFFERENT. A constant would else have all lanes queue up for one word."""
    return [
        f"setp.eq.f32 p, mx, mn; setp.lt.and.u32 p, {magnitude}, 0x7f800000, p;",
        "vote.sync.all.pred p, p, 0xffffffff; @!p bra DIFFERENT;",
        f"shfl.sync.idx.b32 t, {x}, 0, 31, 0xffffffff; setp.eq.u32 p, t, {x}; vote.sync.all.pred p, p, 0xffffffff;",
        "@!p bra DIFFERENT; mov.u32 t, %laneid; setp.eq.u32 p, t, 0;",
    ]


def _sixteen_bits(shared: Shared, constant: bool) -> tuple[str, str]:
    half = shared.kind
    count, words = shared.elements, shared.elements // 2
    values = [f"${words + k}" for k in range(words)]
    own, table, low = (f"${2 * words + n * count}" for n in range(3))
    infinite = 0x7F80 if half == "bf16" else 0x7C00
    lines = [
        f".reg .b32 a<{words}>, u, s, t, q, nearest, highest, lowest, mx, mn, hits, bits;",
        ".reg .b32 lows, ends, ones, x;",
        ".reg .b64 to, wide; .reg .pred p, r, outside; .reg .b16 h, g;",
        ".reg .b32 lower, upper; mov.b32 lower, 0x0004; mov.b32 upper, 0x0400;",
        f"mov.b32 nearest, -1; mov.b32 ones, -1; mov.b32 mx, {values[0]}; mov.b32 mn, {values[0]};",
        f"mov.b32 ends, {shared.cells * 0x10001}; sub.u32 lows, 65536, {low}; mul.lo.u32 lows, lows, 65537;",
    ]
    place = ["add.u16x2 u, $A, lows; min.u16x2 u, u, ends;", *_with_signs(shared)]
    alike = [
        # If all elements of the warp are one finite value, all lanes would queue up for one word.
        f"shfl.sync.idx.b32 t, {values[0]}, 0, 31, 0xffffffff; setp.eq.u32 p, t, {values[0]};",
        f"setp.eq.and.u32 p, t, {values[-1]}, p; vote.sync.all.pred p, p, 0xffffffff; @!p bra DIFFERENT;",
        *(f"setp.eq.and.u32 p, t, {x}, p;" for x in values[1:-1]),
        "prmt.b32 s, t, t, 0x1010; setp.eq.and.u32 p, s, t, p;",
        f"and.b32 s, t, 0x7fff; setp.lt.and.u32 p, s, {infinite}, p;",
        "vote.sync.all.pred p, p, 0xffffffff; @!p bra DIFFERENT; mov.u32 t, %laneid; setp.eq.u32 p, t, 0;",
        f"and.b32 a0, {values[0]}, 0x7fff7fff; add.u16x2 nearest, a0, ones;",
        *(line.replace("$A", "a0").replace("$X", values[0]) for line in place),
        f"and.b32 t, u, 0xffff; mad.lo.u32 t, t, 4, {own}; @p red.shared.add.u32 [t], {32 * count}; bra COUNTED;",
        "DIFFERENT:",
    ]
    lines += alike if constant else []
    for k, x in enumerate(values):
        lines += [
            f"and.b32 a{k}, {x}, 0x7fff7fff;",
            *(line.replace("$A", f"a{k}").replace("$X", x) for line in place),
            # A dot product takes one of two out: the pipe of logic and shifts has most to do, and that is another one.
            f"dp2a.lo.u32.u32 t, u, lower, {own}; dp2a.lo.u32.u32 u, u, upper, {own};",
            "red.shared.add.u32 [t], 1; red.shared.add.u32 [u], 1;",
            f"add.u16x2 u, a{k}, ones; min.u16x2 nearest, nearest, u;",
            f"max.NaN.{half}x2 mx, mx, {x}; min.NaN.{half}x2 mn, mn, {x};" if k else "",
        ]
    lines.append("COUNTED:")
    lines += [
        "mov.b32 {h, g}, nearest; min.u16 h, h, g; cvt.u32.u16 nearest, h;",
        *_widened(half, "mx", "max"),
        *_widened(half, "mn", "min"),
        f"add.u32 highest, {low}, {shared.cells}; min.u32 highest, highest, {infinite};",
        *widen(half, "highest", "highest"),
        f"or.b32 lowest, highest, 0x80000000; add.u32 u, {low}, -1;",
        "setp.lt.u32 p, nearest, u; setp.geu.or.f32 p, mx, highest, p; setp.leu.or.f32 p, mn, lowest, p;",
        "@!p bra INSIDE;",
        "mov.b32 mx, 0xff800000; mov.b32 mn, 0x7f800000;",
    ]
    for k, pair in enumerate(values):
        for part in (f"and.b32 q, {pair}, 0xffff;", f"shr.u32 q, {pair}, 16;"):
            window = f"and.b32 u, q, 0x7fff; sub.u32 u, u, {low}; setp.ge.u32 outside, u, {shared.cells};"
            lines += [part, *widen(half, "x", "q"), f"and.b32 a{k}, x, 0x7fffffff;"]
            lines += _outside(shared, "x", f"a{k}", own, table, window)
    lines.append("INSIDE:")
    narrow = "shr.u32 u, bits, 16;" if half == "bf16" else "cvt.rn.f16.f32 h, bits; cvt.u32.u16 u, h;"
    equal = [narrow, "mul.lo.u32 u, u, 65537; mov.b32 x, 0;"]  # x: how many, as two halves, which are exact that far
    equal += [f"set.eq.{half}x2.{half}x2 q, {pair}, u; add.rn.{half}x2 x, x, q;" for pair in values]
    equal += ["and.b32 u, x, 0xffff; shr.u32 q, x, 16;", *widen(half, "u", "u"), *widen(half, "q", "q")]
    equal += ["add.f32 u, u, q; cvt.rzi.u32.f32 hits, u;"]
    lines += _extremes(equal)
    return _wrapped(lines, words, count)


def _with_signs(shared: Shared) -> list[str]:
    """From cells and values the numbers of the words, of two in 16 bits each."""
    if shared.turns:
        turn = TURN * 0x10001
        return [
            f"and.b32 t, u, {(0x10000 - TURN) * 0x10001}; add.u32 u, u, t;",
            f"shr.u32 s, $X, {16 - TURN.bit_length()}; and.b32 s, s, {turn}; or.b32 u, u, s;",
        ]
    return [f"shr.u32 s, $X, 15; and.b32 s, s, 0x00010001; mad.lo.u32 u, s, {shared.stride}, u;"]


def _widened(half: str, pair: str, further: str) -> list[str]:
    """Float32 bits of the further of the two in `pair`; NaN where one of them is."""
    return [
        f"and.b32 u, {pair}, 0xffff; shr.u32 t, {pair}, 16;",
        *widen(half, "u", "u"),
        *widen(half, "t", "t"),
        f"{further}.NaN.f32 {pair}, u, t;",
    ]


def _outside(
    shared: Shared, x: str, magnitude: str, own: str, table: str, window: str, packed: bool = False, again: bool = False
) -> list[str]:
    """An element of a thread that has one outside the window. x: its float32 bits; window: sets `outside`."""
    shift = 23 - shared.mantissa_bits
    misc, one = 4 * shared.misc, 1 << PACKED_COUNT if packed else 1
    taken_off = [
        f"{window} setp.ne.and.u32 outside, {magnitude}, 0, outside;",
        f"shr.u32 s, {x}, 31; mad.lo.u32 t, s, {shared.negative}, {own};",
        f"@outside red.shared.add.u32 [t + {shared.outside}], -{one};",
    ]
    if again:
        return taken_off
    return [
        "{",
        *taken_off,
        f"@outside red.shared.add.u32 [{own} + {misc + 4 * OUTSIDE}], 1;" if packed else "",
        f"setp.ge.u32 r, {magnitude}, 0x7f800000; setp.gt.u32 p, {magnitude}, 0x7f800000;",
        f"@!r max.f32 mx, mx, {x}; @!r min.f32 mn, mn, {x};",
        f"mad.lo.u32 t, s, 4, {4 * POS_INF}; @p mov.b32 t, {4 * NAN}; add.u32 t, t, {own};",
        f"@r red.shared.add.u32 [t + {misc}], 1;",
        "not.pred r, r; and.pred outside, outside, r; @!outside bra ADDED;",
        f"shr.u32 t, {x}, {shift}; mad.wide.u32 to, t, 8, {table};",
        f"shr.u32 t, {x}, {shift - 8}; and.b32 t, t, 255; cvt.u64.u32 wide, t; shl.b64 wide, wide, {COUNT_BITS};",
        # As many may come as there are elements: so it is looked whether there is room for the next.
        "add.u64 wide, wide, 1; atom.global.add.u64 wide, [to], wide;",
        f"and.b64 wide, wide, {FULL}; setp.eq.u64 p, wide, 0; @p bra ADDED;",
        f"atom.global.and.b64 wide, [to], {~FULL}; and.b64 wide, wide, {FULL}; .reg .b64 sums;",
        f"shr.u64 sums, wide, 63; shl.b64 sums, sums, {32 + COUNT_BITS - 1 - UNIT_BITS};",
        f"shr.u64 wide, wide, {UNIT_BITS}; and.b64 wide, wide, {1 << (COUNT_BITS - 1 - UNIT_BITS)};",
        f"or.b64 wide, wide, sums; red.global.add.u64 [to + {shared.second}], wide; ADDED:}}",
    ]


def _extremes(equal: list[str]) -> list[str]:
    """Update the warp's extremes by mx and mn. equal: makes `hits`, 0 before, the elements that equal `bits`; it
    keeps p and t."""
    lines = [
        # The hits of zero are the zeros, which are counted anyway: else half a tensor of zeros would be slow.
        "setp.neu.f32 r, top, 0f00000000; setp.eq.and.f32 r, mx, top, r; setp.gt.or.f32 p, mx, top, r;",
        "setp.neu.f32 r, bottom, 0f00000000; setp.eq.and.f32 r, mn, bottom, r; setp.lt.or.f32 r, mn, bottom, r;",
        "or.pred p, p, r; vote.sync.any.pred p, p, 0xffffffff; @!p bra DONE;",
    ]
    for found, end, further, or_equal in (("mx", "top", "max", "ge"), ("mn", "bottom", "min", "le")):
        lines += [
            f"shr.s32 t, {found}, 31; and.b32 t, t, 0x7fffffff; xor.b32 t, t, {found};",
            f"redux.sync.{further}.s32 t, t, 0xffffffff;",
            "shr.s32 bits, t, 31; and.b32 bits, bits, 0x7fffffff; xor.b32 bits, bits, t; mov.b32 hits, 0;",
            f"setp.{or_equal}.f32 p, bits, {end}; @!p bra NOT_{further};",
            f"setp.eq.f32 p, bits, {end}; mov.b32 {end}, bits;",
            *equal,
            f"redux.sync.add.u32 hits, hits, 0xffffffff; @!p mov.b32 n_{end}, 0; add.u32 n_{end}, n_{end}, hits;",
            f"NOT_{further}:",
        ]
    return [*lines, "DONE:"]


def _wrapped(lines: list[str], registers: int, elements: int) -> tuple[str, str]:
    """With constraints, and outputs that nobody reads."""
    ends = [f"mov.b32 ${k}, 0;" for k in range(registers)]
    each = [",".join([kind] * elements) for kind in ("r", "l", "r")]
    constraints = ",".join(["=r"] * registers + ["r"] * registers + each)
    return "\n".join(["{", *lines, *ends, "}"]), constraints
