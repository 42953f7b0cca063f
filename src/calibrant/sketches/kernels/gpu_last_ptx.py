"""The inner loops of `gpu_last` as PTX, as `gpu_ptx` has those of `gpu_fast`.

In shared memory there is a word for each cell of each channel: for each sign of each channel the `cells` of a window
that lies elsewhere on the number line for each channel. The words of one cell of channels that other lanes of a warp
read, of every fourth channel, lie side by side: so these lanes are never in each other's way. Count and sum of
positions share a word, as count << sum_bits | sum; a word has room for `limit` elements. What is outside the window,
as zeros are, goes to a word that nobody adds to a table: zeros are counted in a register, finite values go straight to
the table in global memory.

A thread reads four channels, always the same. In registers that `begin` names, and every assembly after it knows, it
has of each where its words and its window begin, how many zeros there were, and the extremes of all lanes that read
this channel, with its own hits of them: NO_TOP with no hits stands for no value yet, and NEAR_ZERO with no hits for
zero, whose hits are the zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibrant.sketches.kernels.gpu_ptx import LEAVE_IF_NONE, block

VECTOR = 4  # channels of a thread

# From word `misc` on, which is the count of the fullest word: where the first channel's table is, and the bytes from
# one to the next; the lowest bits of each channel's window; of each channel how many were NaN, of each how many +Inf,
# and -Inf; a word for each lane that nobody reads; then what `park` found, a field after the other, each
# (warps, channels).
TABLE, PITCH = 2, 4
MISC_ROW = 128  # words, of which each of these begins one
LOWS, NOT_FINITE, UNREAD, FOUND, FIELDS_FOUND = MISC_ROW, 2 * MISC_ROW, 3 * MISC_ROW, 4 * MISC_ROW, 5

_NO_TOP, _NO_BOTTOM = 0xFF7FFFFF, 0x7F7FFFFF  # the lowest and the highest finite value
_NEAR_ZERO = 1  # bits of the least positive value
_EVERY = "0xffffffff"
OWN_BITS = {"f32": 23, "bf16": 7, "f16": 10}  # of a mantissa

# One thread has $3 bytes from $2 on come to the second cache.
FETCH = """{.reg .b32 i; .reg .pred p; mov.u32 i, %tid.x; setp.eq.u32 p, i, 0;
@p cp.async.bulk.prefetch.L2.global [$2], $3; mov.b32 $0, 0;}"""


@dataclass(frozen=True, slots=True)
class Shared:
    """How shared memory is used: see above. mantissa_bits are those of the table in global memory; kind is what is
    counted: "f32", "bf16" or "f16"; elements: of a thread at once."""

    kind: str
    mantissa_bits: int
    threads: int
    elements: int
    channels: int
    octaves: int

    @property
    def across(self) -> int:
        """Lanes that read one row."""
        return self.channels // VECTOR

    @property
    def own_bits(self) -> int:
        """Of the mantissa that is counted by."""
        return OWN_BITS[self.kind]

    @property
    def span(self) -> int:
        """From the lowest bits of a window to its end."""
        return self.octaves << self.own_bits

    @property
    def finer(self) -> int:
        """Bits of a mantissa that are no cell's."""
        return max(self.own_bits - self.mantissa_bits, 0)

    @property
    def position_bits(self) -> int:
        """Of these, the ones of a position."""
        return min(self.finer, 8)

    @property
    def cells(self) -> int:
        """Words of a sign of a channel: of 16 bits, one more, for what is outside."""
        return (self.span >> self.finer) + (self.kind != "f32")

    @property
    def sign(self) -> int:
        """Words from a sign's first cell to the other's."""
        return self.cells * self.across

    @property
    def misc(self) -> int:
        """The word behind all cells: a multiple of what a warp looks at together."""
        return -(-2 * VECTOR * self.sign // 128) * 128

    @property
    def sum_bits(self) -> int:
        """Of a word, for the sum of positions."""
        return (33 + self.position_bits) // 2

    @property
    def limit(self) -> int:
        """How many elements a word has room for, whatever they are."""
        most = (1 << 32 - self.sum_bits) - 1
        return min(most, ((1 << self.sum_bits) - 1) // max((1 << self.position_bits) - 1, 1))

    @property
    def masks(self) -> list[int]:
        """By which lanes differ that read the same channels."""
        return [mask for mask in (1, 2, 4, 8, 16) if mask >= self.across]


def begin(shared: Shared) -> str:
    """For each thread once: nothing is counted yet. $1: the address of shared memory."""
    names = [f"{name}{j}" for name in ("top", "bottom", "n_top", "n_bottom", "zeros") for j in range(VECTOR)]
    start = {"top": f"{_NO_TOP:#x}", "bottom": f"{_NO_BOTTOM:#x}"}
    before = [
        f".reg .b32 {', '.join(names)}, unread, own<{VECTOR}>, low<{VECTOR}>; mov.u32 unread, %laneid;",
        f"mad.lo.u32 unread, unread, 4, $1; add.u32 unread, unread, {4 * (shared.misc + UNREAD)};",
        *(f"mov.b32 {name}, {start.get(name.rstrip('0123456789'), 0)};" for name in names),
    ]
    words = shared.misc + FOUND
    lines = [
        ".reg .b32 i, at, zero; .reg .pred p; mov.b32 zero, 0; mov.u32 i, %tid.x; mad.lo.u32 at, i, 16, $1;",
        f"mul.lo.u32 i, i, 4; NEXT: setp.lt.u32 p, i, {words}; @p st.shared.v4.b32 [at], {{zero, zero, zero, zero}};",
        f"add.u32 at, at, {16 * shared.threads}; add.u32 i, i, {4 * shared.threads};",
        f"setp.lt.u32 p, i, {words}; @p bra NEXT;",
    ]
    return block(lines, before)


def place(shared: Shared) -> str:
    """For each thread once, when windows are found: know them. $1: the address of shared memory, $2: of the first
    channel's table, $3: bytes from one to the next."""
    misc = 4 * shared.misc
    lines = [
        f".reg .b32 lane, at; .reg .pred p; mov.u32 lane, %laneid; and.b32 lane, lane, {shared.across - 1};",
        f"mad.lo.u32 at, lane, {4 * VECTOR}, $1;",
        f"ld.shared.v4.b32 {{low0, low1, low2, low3}}, [at + {misc + 4 * LOWS}];",
        "mad.lo.u32 own0, lane, 4, $1;",
        *(f"add.u32 own{j}, own0, {8 * shared.sign * j};" for j in range(1, VECTOR)),
        f"mov.u32 at, %tid.x; setp.eq.u32 p, at, 0; @p st.shared.b64 [$1 + {misc + 4 * TABLE}], $2;",
        f"@p st.shared.b32 [$1 + {misc + 4 * PITCH}], $3;",
    ]
    if shared.kind != "f32":  # negated, and two in a register
        lines += [f"neg.s32 low{j}, low{j}; and.b32 low{j}, low{j}, 0xffff;" for j in range(VECTOR)]
        lines += [f"mad.lo.u32 low{j}, low{j + 1}, 0x10000, low{j};" for j in (0, 2)]
    return block(lines)


def check(shared: Shared) -> str:
    """For each thread once: leave the greatest count of a word. $1: the address of shared memory."""
    lines = [
        ".reg .b32 i, end, a, b, c, d, most; .reg .pred p; mov.b32 most, 0;",
        f"mov.u32 i, %tid.x; mad.lo.u32 i, i, 16, $1; add.u32 end, $1, {4 * shared.misc};",
        "NEXT: setp.lt.u32 p, i, end; @!p bra THROUGH; ld.shared.v4.b32 {a, b, c, d}, [i];",
        "max.u32 a, a, b; max.u32 c, c, d; max.u32 most, most, a; max.u32 most, most, c;",
        f"add.u32 i, i, {16 * shared.threads}; bra NEXT;",
        f"THROUGH: redux.sync.max.u32 most, most, {_EVERY}; shr.u32 most, most, {shared.sum_bits};",
        "mov.u32 i, %laneid; setp.eq.u32 p, i, 0;",
        f"@p red.shared.max.u32 [$1 + {4 * shared.misc}], most;",
    ]
    return block(lines)


def flush(shared: Shared) -> str:
    """For each thread once: add the words to the tables, and empty them.

    $1: the address of shared memory, $2: of the first channel's table, $3: bytes from one to the next, $4: where to
    begin, times 128."""
    positions, words, across = 8 << (9 + shared.mantissa_bits), shared.misc, shared.across
    lines = [
        ".reg .b32 i, at, sign, cell, key, stop, t, channel, zero, word<4>, sum; .reg .pred p, any;",
        ".reg .b64 to, wide; .reg .b16 h; mov.b32 zero, 0;",
        "mov.u32 t, %tid.x; shr.u32 stop, t, 5; shl.b32 stop, stop, 7; and.b32 t, t, 31; add.u32 i, stop, t;",
        f"rem.u32 t, $4, {words // 128}; mad.lo.u32 i, t, 128, i; setp.ge.u32 p, stop, {words}; @p bra THROUGH;",
        f"NEXT: setp.ge.u32 p, i, {words}; @p sub.u32 i, i, {words}; mad.lo.u32 at, i, 4, $1;",
        *(f"ld.shared.b32 word{n}, [at + {128 * n}];" for n in range(4)),
        LEAVE_IF_NONE,
        *(f"st.shared.b32 [at + {128 * n}], zero;" for n in range(4)),
    ]
    for n in range(4):
        lines += [
            f"add.u32 cell, i, {32 * n}; and.b32 channel, cell, {across - 1}; div.u32 cell, cell, {across};",
            f"div.u32 t, cell, {shared.cells}; mad.lo.u32 cell, t, -{shared.cells}, cell; and.b32 sign, t, 1;",
            f"shr.u32 t, t, 1; mad.lo.u32 channel, channel, {VECTOR}, t; mad.lo.u32 t, channel, 4, $1;",
            f"setp.lt.u32 p, channel, {shared.channels}; setp.lt.and.u32 p, cell, {shared.span >> shared.finer}, p;",
            f"@!p mov.b32 word{n}, 0; @p ld.shared.b32 key, [t + {4 * (shared.misc + LOWS)}];",
            f"mad.lo.u32 key, cell, {1 << shared.finer}, key;",
            *(
                {"bf16": ["shl.b32 key, key, 16;"], "f16": ["cvt.u16.u32 h, key; cvt.f32.f16 key, h;"]}.get(
                    shared.kind, []
                )
            ),
            f"shr.u32 key, key, {23 - shared.mantissa_bits};",
            f"mad.lo.u32 key, sign, {1 << (8 + shared.mantissa_bits)}, key;",
            "mad.wide.u32 to, channel, $3, $2; mul.wide.u32 wide, key, 8; add.u64 to, to, wide;",
            f"shr.u32 t, word{n}, {shared.sum_bits}; and.b32 sum, word{n}, {(1 << shared.sum_bits) - 1};",
            f"shl.b32 sum, sum, {8 - shared.position_bits}; setp.ne.u32 any, t, 0; setp.ne.u32 p, sum, 0;",
            "cvt.u64.u32 wide, t; @any red.global.add.u64 [to], wide;",
            f"cvt.u64.u32 wide, sum; @p red.global.add.u64 [to + {positions}], wide;",
        ]
    lines += [
        f"EMPTY: add.u32 i, i, {4 * shared.threads}; add.u32 stop, stop, {4 * shared.threads};",
        f"setp.lt.u32 p, stop, {words}; @p bra NEXT;",
        "THROUGH: mov.u32 i, %tid.x; setp.eq.u32 p, i, 0;",
        f"@p st.shared.b32 [$1 + {4 * words}], zero;",
    ]
    return block(lines)


def park(shared: Shared) -> str:
    """For each thread once: leave what the warp knows of its channels. $1: the address of shared memory."""
    row, warps = shared.channels, shared.threads // 32
    lines = [
        ".reg .b32 lane, at, t, s; .reg .pred p, first; mov.u32 lane, %laneid;",
        f"setp.lt.u32 first, lane, {shared.across}; mov.u32 at, %tid.x; shr.u32 at, at, 5;",
        f"mul.lo.u32 at, at, {row}; mad.lo.u32 at, lane, {VECTOR}, at; mad.lo.u32 at, at, 4, $1;",
    ]
    for j in range(VECTOR):
        for name in ("n_top", "n_bottom", "zeros"):
            for mask in shared.masks:
                lines.append(f"shfl.sync.bfly.b32 t, {name}{j}, {mask}, 31, {_EVERY}; add.u32 {name}{j}, {name}{j}, t;")
        for end, nothing, zero, none in (
            ("top", _NO_TOP, _NEAR_ZERO, -0x7F800001),
            ("bottom", _NO_BOTTOM, 0x80000000 | _NEAR_ZERO, 0x7F800000),
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


def count(shared: Shared) -> tuple[str, str]:
    """Count some elements of a thread, int32 or int16, whose channels take turns: the assembly and its constraints."""
    narrow, words = shared.kind != "f32", shared.elements // (1 if shared.kind == "f32" else 2)
    inputs = [f"${words + k}" for k in range(words)]
    # Of 16 bits an element is widened to `x` wherever it is looked at: registers are few.
    values = [("", x) for x in inputs]
    if narrow:
        values = [(_widened(shared.kind, word, upper), "x") for word in inputs for upper in (False, True)]
    lines = [
        f".reg .b32 x, mx<{VECTOR}>, mn<{VECTOR}>, a, u, s, t, q, far, ends; .reg .b64 to, wide;",
        ".reg .pred p, r, any; .reg .b16 h, g;",
        *(_sixteen_bits(shared, inputs) if narrow else _float32(shared, inputs)),
        *_furthest(shared.kind, inputs),
        f"vote.sync.any.pred any, any, {_EVERY}; @!any bra INSIDE;",
        *(f"mov.b32 mx{j}, 0xff800000; mov.b32 mn{j}, 0x7f800000;" for j in range(VECTOR)),
    ]
    for k, (widen, x) in enumerate(values):
        lines += [widen, *_outside(shared, x, inputs[k // 2] if narrow else x, k)]
    lines += ["INSIDE:", *_extremes(shared, values), *(f"mov.b32 ${k}, 0;" for k in range(words))]
    return "\n".join(["{", *lines, "}"]), ",".join(["=r"] * words + ["r"] * words)


def _float32(shared: Shared, inputs: list[str]) -> list[str]:
    """Add each to its word, and find whether `any` has none. Then the address is where nobody reads: that is faster
    than to leave it out."""
    finer, position = shared.finer, shared.position_bits
    lines = ["setp.ne.u32 any, 0, 0;"]
    for k, x in enumerate(inputs):
        j = k % VECTOR
        lines += [
            f"and.b32 a, {x}, 0x7fffffff; sub.u32 u, a, low{j}; setp.ge.u32 p, u, {shared.span}; or.pred any, any, p;",
            f"shr.u32 s, {x}, 31; mad.lo.u32 s, s, {4 * shared.sign}, own{j}; shr.u32 t, u, {finer};",
            f"mad.lo.u32 t, t, {4 * shared.across}, s; selp.b32 t, unread, t, p;",
            f"shr.u32 q, u, {finer - position}; and.b32 q, q, {2**position - 1}; or.b32 q, q, {1 << shared.sum_bits};",
            "red.shared.add.u32 [t], q;",
        ]
    return lines


def _sixteen_bits(shared: Shared, inputs: list[str]) -> list[str]:
    """The same, two at once as long as may be."""
    finer, factor = shared.finer, 4 * shared.across
    lines = [f"mov.b32 far, 0; mov.b32 ends, {shared.span * 0x10001};"]
    for n, pair in enumerate(inputs):
        j = 2 * n % VECTOR
        lines += [
            f"and.b32 a, {pair}, 0x7fff7fff; add.u16x2 u, a, low{j}; max.u16x2 far, far, u; min.u16x2 u, u, ends;",
            f"shr.u32 s, {pair}, 15; and.b32 s, s, 0x00010001; mad.lo.u32 u, s, {shared.cells << finer}, u;",
        ]
        for part in range(2):
            if part:
                lines.append("shr.u32 u, u, 16;")
            if factor >> finer:
                cell = f"and.b32 t, u, {0xFFFF >> finer << finer}; mad.lo.u32 t, t, {factor >> finer}, own{j + part};"
            else:
                cell = f"and.b32 t, u, 0xffff; shr.u32 t, t, {finer}; mad.lo.u32 t, t, {factor}, own{j + part};"
            lines += [
                cell,
                f"and.b32 q, u, {(1 << finer) - 1}; or.b32 q, q, {1 << shared.sum_bits:#x}; red.shared.add.u32 [t], q;",
            ]
    return [*lines, "mov.b32 {h, g}, far; max.u16 h, h, g; cvt.u32.u16 u, h;", f"setp.ge.u32 any, u, {shared.span};"]


def _widened(kind: str, word: str, upper: bool) -> str:
    """Float32 bits x of the lower or upper 16 bits."""
    if kind == "bf16":
        return f"and.b32 x, {word}, 0xffff0000;" if upper else f"shl.b32 x, {word}, 16;"
    return f"mov.b32 {{h, g}}, {word}; cvt.f32.f16 x, {'g' if upper else 'h'};"


def _furthest(kind: str, inputs: list[str]) -> list[str]:
    """The extremes mx and mn of each channel, NaN left out; where there is Inf, that is wrong, and nobody minds."""
    each, type_ = {"f32": (1, "f32"), "bf16": (2, "bf16x2"), "f16": (2, "f16x2")}[kind]
    together = VECTOR // each
    lines = []
    for found, further in (("mx", "max"), ("mn", "min")):
        for n in range(together):
            lines.append(f"mov.b32 {found}{n * each}, {inputs[n]};")
            lines += [
                f"{further}.{type_} {found}{n * each}, {found}{n * each}, {x};"
                for x in inputs[n + together :: together]
            ]
            if each == 2:
                lines += [
                    f"mov.b32 q, {found}{n * each}; {_widened(kind, 'q', True)} mov.b32 {found}{n * each + 1}, x;",
                    f"{_widened(kind, 'q', False)} mov.b32 {found}{n * each}, x;",
                ]
    return lines


def _outside(shared: Shared, x: str, word: str, k: int) -> list[str]:
    """Element k of a thread that has one which is zero, outside of its window or not finite. x: its float32 bits."""
    shift, sums, misc = 23 - shared.mantissa_bits, 8 << (9 + shared.mantissa_bits), 4 * shared.misc
    j = k % VECTOR
    window = f"sub.u32 u, a, low{j};"
    if shared.kind != "f32":
        cut = ["and.b32 {0}, {1}, 0xffff;", "shr.u32 {0}, {1}, 16;"][k % 2]
        packed = f"low{j - j % 2}"
        window = f"{cut.format('u', word)} and.b32 u, u, 0x7fff; {cut.format('t', packed)} add.u32 u, u, t;"
        window += " and.b32 u, u, 0xffff;"
    return [
        f"and.b32 a, {x}, 0x7fffffff; setp.eq.u32 p, a, 0; @p add.u32 zeros{j}, zeros{j}, 1;",
        f"setp.lt.u32 r, a, 0x7f800000; @r max.f32 mx{j}, mx{j}, {x}; @r min.f32 mn{j}, mn{j}, {x};",
        f"{window} setp.ge.u32 p, u, {shared.span}; setp.ne.and.u32 p, a, 0, p; @!p bra DONE{k};",
        f"mov.u32 t, %laneid; and.b32 t, t, {shared.across - 1}; mad.lo.u32 t, t, {VECTOR}, {j};",
        "mov.u32 q, global_smem;",
        f"shr.u32 s, {x}, 31; add.u32 s, s, 1; setp.gt.u32 p, a, 0x7f800000; @p mov.b32 s, 0;",
        f"mad.lo.u32 s, s, {shared.channels}, t; mad.lo.u32 s, s, 4, q;",
        f"@!r red.shared.add.u32 [s + {misc + 4 * NOT_FINITE}], 1; @!r bra DONE{k};",
        f"ld.shared.b64 to, [q + {misc + 4 * TABLE}]; ld.shared.b32 s, [q + {misc + 4 * PITCH}];",
        f"mad.wide.u32 to, t, s, to; shr.u32 t, {x}, {shift}; mul.wide.u32 wide, t, 8; add.u64 to, to, wide;",
        f"mov.b64 wide, 1; red.global.add.u64 [to], wide; shr.u32 t, {x}, {shift - 8}; and.b32 t, t, 255;",
        f"setp.ne.u32 p, t, 0; cvt.u64.u32 wide, t; @p red.global.add.u64 [to + {sums}], wide;",
        f"DONE{k}:",
    ]


def _extremes(shared: Shared, values: list[tuple[str, str]]) -> list[str]:
    """Update the extremes by mx and mn, and the thread's hits of them."""
    ends = (("top", "mx", "ge", "gt", "max", _NEAR_ZERO), ("bottom", "mn", "le", "lt", "min", 0x80000000 | _NEAR_ZERO))
    lines = ["setp.ne.u32 p, 0, 0;"]
    for end, found, or_equal, *_ in ends:
        lines += [f"setp.{or_equal}.or.f32 p, {found}{j}, {end}{j}, p;" for j in range(VECTOR)]
    lines.append(f"vote.sync.any.pred p, p, {_EVERY}; @!p bra SAME;")
    for end, found, or_equal, further, furthest, near_zero in ends:
        for j in range(VECTOR):
            lines += [
                f"setp.{or_equal}.f32 p, {found}{j}, {end}{j}; vote.sync.any.pred p, p, {_EVERY};",
                f"@!p bra SAME_{end}{j};",
                f"mov.b32 t, {found}{j};",
                *(f"shfl.sync.bfly.b32 q, t, {mask}, 31, {_EVERY}; {furthest}.f32 t, t, q;" for mask in shared.masks),
                f"setp.{further}.f32 p, t, {end}{j}; @p mov.b32 n_{end}{j}, 0; @p mov.b32 {end}{j}, t;",
                *(
                    f"{widen} setp.eq.f32 p, {x}, {end}{j}; @p add.u32 n_{end}{j}, n_{end}{j}, 1;"
                    for widen, x in values[j::VECTOR]
                ),
                f"setp.eq.f32 p, {end}{j}, 0f00000000; @p mov.b32 n_{end}{j}, 0; @p mov.b32 {end}{j}, {near_zero:#x};",
                f"SAME_{end}{j}:",
            ]
    return [*lines, "SAME:"]
