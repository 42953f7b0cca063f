"""The inner loops of `gpu_fast` as PTX, NVIDIA's assembly: Triton has no way to say that shared memory is added to.

What counts is inlined where some elements of each thread are in registers. In shared memory, in words of 32 bits, there
is for each sign a stretch of `stride` counters, and of float32 as many sums of positions behind them. A stretch begins
with the `cells` of a window that ends somewhere on the number line; the next word takes zeros and everything outside.
What is outside and not zero is rare if the window is well placed. It is taken off that word again: finite values go
straight to the table in global memory, and NaN and Inf to counters of their own.

What is read passes through the upper 128 KiB of a multiprocessor's memory, and additions there wait for it (a seventh
longer on an H200). Only float16 has as many counters: of that the two stretches take turns, every 32 words, so that
only the largest values are counted there.

Two additions for each float32 are more than shared memory can take at the speed of global memory. So where values do
not repeat much, count and sum are packed into one word, count << 20 | sum. Such a word overflows when its count is
4096, not before (4095 * 255 < 2**20), and then all counts together fall short of what was counted, for each overflow
takes 4096 off and carries at most one per 4112 back. `check` looks for that, and what overflowed is counted `again`.

The extremes are kept for each warp, as the highest value so far and how many equal it; and the lowest. Most often a
warp sees no value as far out as its extremes: then that is all that has to be found out. They are in registers, named
in `begin`, which every assembly after it knows: to read them from shared memory would take a slot of those that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibrant.sketches.kernels.gpu_asm import WAIT_FOR_OTHERS

# From word `misc` on: counters; and for each warp a word at each of the last four, of which TOP and BOTTOM are float32
# bits. OUTSIDE: elements that were taken off; LARGEST: magnitude of a sample; BELOW, of float16: how far the least
# one that is not 0 is below infinity; PAIRS: in the sample, lanes of a warp that hit one cell; COUNTED and MOST: what
# `check` found; FOUND: what `end` found.
NAN, POS_INF, NEG_INF, ZEROS, OUTSIDE, LARGEST, BELOW, PAIRS, COUNTED, MOST, FOUND = *range(10), 32
TOP, N_TOP, BOTTOM, N_BOTTOM, MISC_WORDS = 64, 96, 128, 160, 256
PACKED_COUNT = 20  # bits below it
LOOKING = 256  # threads whose lanes are compared
LINES = 128  # words that a warp adds to the table together: a stretch is as many, or a multiple
TURN = 32  # words of one sign before those of the other: as many as there are banks


@dataclass(frozen=True, slots=True)
class Shared:
    """How shared memory is used: see above. mantissa_bits are those of the table in global memory; kind is what is
    counted: "f32", "bf16" or "f16"; elements: of a thread at once."""

    kind: str
    mantissa_bits: int
    threads: int
    elements: int
    cells: int
    stride: int
    misc: int

    @property
    def turns(self) -> bool:
        """Whether the stretches of both signs take turns, `TURN` words of each."""
        return self.kind == "f16"

    @property
    def negative(self) -> int:
        """Bytes from a positive value's word to the negative one's."""
        return 4 * (TURN if self.turns else self.stride)

    @property
    def outside(self) -> int:
        """Bytes to the word of positive zeros and of what is outside the window."""
        return 4 * self.cells * (2 if self.turns else 1)

    @property
    def second(self) -> int:
        """Bytes of the table from a cell's first word to its second one."""
        return 8 << (9 + self.mantissa_bits)


def begin(shared: Shared, waits: bool) -> str:
    """For each thread once: nothing is counted yet, though sums are not emptied; waits: then wait for what came before
    this kernel. $1: the address of shared memory."""
    return block(
        [
            *_emptied(shared, 0, 8 * shared.stride),
            f"mad.lo.u32 at, i, 4, $1; setp.lt.u32 p, i, {TOP};",
            f"@p st.shared.b32 [at + {4 * shared.misc}], zero;",
            "setp.lt.u32 p, i, 32; @!p bra OTHERS;",
            f"add.u32 at, at, {4 * shared.misc}; st.shared.b32 [at + {4 * TOP}], top;",
            f"st.shared.b32 [at + {4 * BOTTOM}], bottom;",
            "OTHERS:",
            WAIT_FOR_OTHERS if waits else "",
        ],
        before=[
            ".reg .b32 top, n_top, bottom, n_bottom;",
            "mov.b32 top, 0xff800000; mov.b32 n_top, 0; mov.b32 bottom, 0x7f800000; mov.b32 n_bottom, 0;",
        ],
    )


def park(shared: Shared) -> str:
    """For each thread once: leave the extremes of each warp in shared memory, for `end`. $1: its address."""
    lines = [
        ".reg .b32 at, i; .reg .pred p;",
        "mov.u32 at, %tid.x; and.b32 i, at, 31; setp.eq.u32 p, i, 0; shr.u32 at, at, 5; mad.lo.u32 at, at, 4, $1;",
        *(
            f"@p st.shared.b32 [at + {4 * (shared.misc + place)}], {name};"
            for place, name in ((TOP, "top"), (N_TOP, "n_top"), (BOTTOM, "bottom"), (N_BOTTOM, "n_bottom"))
        ),
    ]
    return block(lines)


def empty(shared: Shared, counts: bool) -> str:
    """For each thread once: empty the sums, and with `counts` the counts before them. $1: the address."""
    lines = _emptied(shared, 0 if counts else 8 * shared.stride, 4 * shared.misc)
    return block(lines if shared.kind == "f32" else [])


def _emptied(shared: Shared, start: int, stop: int) -> list[str]:
    """Write zeros from one place to another; i is the thread's number then."""
    return [
        ".reg .b32 i, at, end, zero; .reg .pred p;",
        f"mov.b32 zero, 0; mov.u32 i, %tid.x; mad.lo.u32 at, i, 16, $1; add.u32 end, $1, {stop};",
        f"add.u32 at, at, {start};",
        "NEXT: setp.lt.u32 p, at, end; @p st.shared.v4.b32 [at], {zero, zero, zero, zero};",
        f"add.u32 at, at, {16 * shared.threads}; @p bra NEXT;",
    ]


def look(shared: Shared, vector: int) -> tuple[str, str]:
    """At a sample, `vector` elements of each thread, as int32: leave LARGEST and BELOW, and of their first ones PAIRS.
    The last input is the address of shared memory. The assembly and its constraints."""
    infinite = {"f32": 0x7F800000, "bf16": 0x7F80, "f16": 0x7C00}[shared.kind]
    magnitude, own = 0x7FFFFFFF if shared.kind == "f32" else 0x7FFF, f"${2 * vector}"
    lines = [
        ".reg .b32 a, t, largest, below, lanes; .reg .pred p; mov.b32 largest, 0; mov.b32 below, 0;",
        "mov.u32 lanes, %laneid;",
    ]
    for k in range(vector):
        lines += [
            f"and.b32 a, ${vector + k}, {magnitude}; setp.lt.u32 p, a, {infinite}; @p max.u32 largest, largest, a;",
        ]
        if shared.kind == "f16":
            lines.append(f"setp.ne.and.u32 p, a, 0, p; sub.u32 a, {infinite}, a; @p max.u32 below, below, a;")
    lines += [
        "setp.eq.u32 p, lanes, 0;",
        *(
            f"redux.sync.max.u32 {name}, {name}, 0xffffffff; "
            f"@p red.shared.max.u32 [{own} + {4 * (shared.misc + word)}], {name};"
            for name, word in (("largest", LARGEST), ("below", BELOW))[: 2 if shared.kind == "f16" else 1]
        ),
    ]
    lines += [
        f"shr.u32 t, ${vector}, {23 - shared.mantissa_bits if shared.kind == 'f32' else 0};",
        # To compare lanes takes long, and some warps tell enough.
        f"mov.u32 a, %tid.x; setp.lt.u32 p, a, {LOOKING}; @!p bra OTHERS; and.b32 a, a, 31;",
        "match.any.sync.b32 lanes, t, 0xffffffff;",
        "popc.b32 t, lanes; add.u32 t, t, -1; redux.sync.add.u32 t, t, 0xffffffff;",
        f"setp.eq.u32 p, a, 0; @p red.shared.add.u32 [{own} + {4 * (shared.misc + PAIRS)}], t;",
        "OTHERS:",
    ]
    constraints = ",".join(["=r"] * vector + ["r"] * (2 * vector))
    return "\n".join(["{", *lines, *(f"mov.b32 ${k}, 0;" for k in range(vector)), "}"]), constraints


def check(shared: Shared) -> str:
    """For each thread once, of packed words: add to COUNTED all counts, and leave in MOST the greatest. $1: the address
    of shared memory."""
    return block(
        [
            ".reg .b32 i, end, word, count, most; .reg .pred p;",
            f"mov.u32 i, %tid.x; mad.lo.u32 i, i, 16, $1; add.u32 end, $1, {8 * shared.stride};",
            "mov.b32 count, 0; mov.b32 most, 0; .reg .b32 a, b, c;",
            "NEXT: setp.lt.u32 p, i, end; @!p bra THROUGH; ld.shared.v4.b32 {word, a, b, c}, [i];",
            *(
                f"shr.u32 {w}, {w}, {PACKED_COUNT}; add.u32 count, count, {w}; max.u32 most, most, {w};"
                for w in ("word", "a", "b", "c")
            ),
            f"add.u32 i, i, {16 * shared.threads}; bra NEXT; THROUGH:",
            "redux.sync.add.u32 count, count, 0xffffffff; redux.sync.max.u32 most, most, 0xffffffff;",
            "mov.u32 i, %laneid; setp.eq.u32 p, i, 0;",
            f"@p red.shared.add.u32 [$1 + {4 * (shared.misc + COUNTED)}], count;",
            f"@p red.shared.max.u32 [$1 + {4 * (shared.misc + MOST)}], most;",
        ]
    )


def forget(shared: Shared) -> str:
    """For each thread once: empty the packed words, and what is counted with them. $1: the address."""
    misc = shared.misc
    return block(
        [
            ".reg .b32 i, end, zero; .reg .pred p;",
            f"mov.b32 zero, 0; mov.u32 i, %tid.x; mad.lo.u32 i, i, 16, $1; add.u32 end, $1, {8 * shared.stride};",
            "NEXT: setp.lt.u32 p, i, end; @p st.shared.v4.b32 [i], {zero, zero, zero, zero};",
            f"add.u32 i, i, {16 * shared.threads}; @p bra NEXT;",
            f"mov.u32 i, %tid.x; setp.eq.u32 p, i, 0; @p st.shared.b32 [$1 + {4 * (misc + OUTSIDE)}], zero;",
            f"@p st.shared.b32 [$1 + {4 * (misc + COUNTED)}], zero; @p st.shared.b32 [$1 + {4 * (misc + MOST)}], zero;",
        ]
    )


def end(shared: Shared) -> str:
    """For each thread once: leave in FOUND the negated lowest ordered value, the highest one, and from the ninth word
    on their hits, zeros, NaN, +Inf and -Inf. $1: the address of shared memory."""
    lines = [
        ".reg .b32 i, at, count, key, bits, misc, other, t; .reg .pred p;",
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
    for n, counter in enumerate((ZEROS, NAN, POS_INF, NEG_INF)):
        lines.append(
            f"ld.shared.b32 count, [misc + {4 * counter}]; st.shared.b32 [misc + {4 * (FOUND + 10 + n)}], count;"
        )
    return block([*lines, "OTHERS:"])


def widen(half: str, to: str, pattern: str) -> list[str]:
    """Float32 bits of the 16 bits in `pattern`."""
    if half == "bf16":
        return [f"shl.b32 {to}, {pattern}, 16;"]
    return [f"cvt.u16.u32 h, {pattern}; cvt.f32.f16 {to}, h;"]


def block(lines: list[str], before: Sequence[str] = ()) -> str:
    """In braces, which keep labels and registers apart, with one output that nobody reads; `before` stands outside."""
    return "\n".join([*before, "{", *lines, "mov.b32 $0, 0;", "}"])
