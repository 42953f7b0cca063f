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
NAN, POS_INF, NEG_INF = range(3)  # the counters, in words from `misc` on
TOP, N_TOP, BOTTOM, N_BOTTOM = 128, 256, 384, 512  # for each warp a word there; TOP and BOTTOM are float32 bits


@dataclass(frozen=True, slots=True)
class Shared:
    """How shared memory is used: see above. mantissa_bits are those of the table in global memory."""

    mantissa_bits: int
    cells: int
    stride: int
    misc: int


def float32(shared: Shared) -> tuple[str, str]:
    """The assembly and its constraints: elements as int32; then the addresses of shared memory and of the global table,
    and the bits of the window's lowest value."""
    values = [f"${ELEMENTS + k}" for k in range(ELEMENTS)]
    own, table, low = (f"${(2 + n) * ELEMENTS}" for n in range(3))
    shift = 23 - shared.mantissa_bits
    span = shared.cells << shift
    lines = [
        ".reg .b32 a<16>, u, s, t, q, nearest, highest, lowest, mx, mn, warp, top, bottom, hits, bits;",
        ".reg .b64 to, wide; .reg .pred p, r, outside;",
        f"mov.b32 nearest, -1; mov.b32 mx, {values[0]}; mov.b32 mn, {values[0]};",
    ]
    for k, x in enumerate(values):
        lines += [
            f"and.b32 a{k}, {x}, 0x7fffffff; sub.u32 u, a{k}, {low}; min.u32 u, u, {span};",
            f"shr.u32 t, u, {shift}; shr.u32 s, {x}, 31; mad.lo.u32 s, s, {4 * shared.stride}, {own};",
            "mad.lo.u32 t, t, 4, s; red.shared.add.u32 [t], 1;",
            f"shr.u32 q, u, {shift - 8}; and.b32 q, q, 255; setp.ne.u32 p, q, 0;",
            f"@p red.shared.add.u32 [t + {8 * shared.stride}], q;",
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


def sixteen_bits(shared: Shared, half: str) -> tuple[str, str]:
    """The same of "bf16" or "f16": elements as int16; then the addresses, and the window's lowest value in 16 bits."""
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
    """In braces, which keep labels and registers apart, with outputs that nobody reads."""
    ends = [f"mov.b32 ${k}, 0;" for k in range(registers)]
    each = [",".join([kind] * ELEMENTS) for kind in ("r", "l", "r")]
    constraints = ",".join(["=r"] * registers + ["r"] * registers + each)
    return "\n".join(["{", *lines, *ends, "}"]), constraints
