"""What adds the words of shared memory to the table in global memory, for `gpu_fast`: see `gpu_ptx`."""

from __future__ import annotations

from calibrant.sketches.kernels.gpu_ptx import COUNTED, LINES, PACKED_COUNT, TURN, ZEROS, Shared, block, widen
from calibrant.sketches.kernels.gpu_words import COUNT_BITS, UNIT_BITS


def flush(shared: Shared, packed: bool, back: bool = False) -> str:
    """For each thread once: add the words to the table, and the zeros to ZEROS; or take them back. Add to COUNTED what
    packed words counted.

    $1: the address of shared memory, $2: of the table, $3: the window's lowest bits, $4: where to begin, times 128."""
    words = 2 * shared.stride
    return block(
        [
            ".reg .b32 i, at, sign, cell, key, stop, t; .reg .pred p, inside, any; .reg .b16 h;",
            ".reg .b32 j<4>, word<4>, sum<4>, counted; .reg .b64 to, wide, sums; mov.b32 counted, 0;",
            # A warp looks at words side by side: most of them are zeros, and those of the others are neighbours.
            "mov.u32 t, %tid.x; shr.u32 i, t, 5; and.b32 t, t, 31;" + ("shl.b32 t, t, 2;" if shared.turns else ""),
            f"mul.lo.u32 stop, i, {LINES}; add.u32 i, stop, t; rem.u32 t, $4, {words // LINES};",
            f"mad.lo.u32 i, t, {LINES}, i; setp.ge.u32 p, stop, {words}; @p bra THROUGH;",
            f"NEXT: setp.ge.u32 p, i, {words}; @p sub.u32 i, i, {words}; mad.lo.u32 at, i, 4, $1;",
            *(_flush_fours(shared) if shared.turns else _flush_lines(shared, packed, back)),
            f"EMPTY: add.u32 i, i, {4 * shared.threads}; add.u32 stop, stop, {4 * shared.threads};",
            f"setp.lt.u32 p, stop, {words}; @p bra NEXT; THROUGH:",
            "redux.sync.add.u32 counted, counted, 0xffffffff; mov.u32 i, %laneid; setp.eq.u32 p, i, 0;"
            if packed
            else "",
            f"@p red.shared.add.u32 [$1 + {4 * (shared.misc + COUNTED)}], counted;" if packed else "",
            "mov.u32 i, %tid.x; setp.eq.u32 p, i, 0; @!p bra OTHERS;",
            f"ld.shared.b32 cell, [$1 + {shared.outside}]; ld.shared.b32 t, [$1 + {shared.outside + shared.negative}];",
            f"shr.u32 cell, cell, {PACKED_COUNT}; shr.u32 t, t, {PACKED_COUNT};" if packed else "",
            f"add.u32 cell, cell, t; {'neg.s32 cell, cell;' if back else ''}",
            f"red.shared.add.u32 [$1 + {4 * (shared.misc + ZEROS)}], cell;",
            "OTHERS:",
        ]
    )


def least(bits: int) -> int:
    """The lowest bits that a window of float16 may begin with: those of one cell of a table of so many mantissa bits
    come together."""
    return 1 << max(10 - bits, 2)


# Of a warp whose four words are all empty.
_LEAVE_IF_NONE = """or.b32 t, word0, word1; or.b32 key, word2, word3; or.b32 t, t, key; setp.ne.u32 p, t, 0;
vote.sync.any.pred p, p, 0xffffffff; @!p bra EMPTY;"""


def _flush_lines(shared: Shared, packed: bool, back: bool) -> list[str]:
    """Four words of a thread, each in another line of its warp."""
    with_sums = shared.kind == "f32" and not packed
    return [
        *(f"ld.shared.b32 word{n}, [at + {128 * n}]; add.u32 j{n}, i, {32 * n};" for n in range(4)),
        _LEAVE_IF_NONE,
        *(f"ld.shared.b32 sum{n}, [at + {8 * shared.stride + 128 * n}];" for n in range(4) if with_sums),
        *(_add_floats(shared, packed, back) if shared.kind == "f32" else []),
        *(
            line
            for n in range(4)
            if shared.kind != "f32"
            for line in _add_to_table(shared, f"j{n}", f"word{n}", f"sum{n}")
        ),
    ]


def _add_floats(shared: Shared, packed: bool, back: bool) -> list[str]:
    """Four words of a thread, all of one sign: their cells are 32 apart."""
    bits, wide = shared.mantissa_bits, "cvt.s64.s32" if back else "cvt.u64.u32"
    lines = [
        *_cell_of(shared, "i"),
        f"shr.u32 key, $3, {23 - bits}; add.u32 key, key, cell; mad.lo.u32 key, sign, {1 << (8 + bits)}, key;",
        "mad.wide.u32 to, key, 8, $2;",
    ]
    for n in range(4):
        if packed:
            lines.append(
                f"and.b32 sum{n}, word{n}, {(1 << PACKED_COUNT) - 1}; shr.u32 word{n}, word{n}, {PACKED_COUNT}; "
                f"add.u32 counted, counted, word{n};"
            )
        if back:
            lines.append(f"neg.s32 word{n}, word{n}; neg.s32 sum{n}, sum{n};")
        lines += [
            f"add.u32 t, cell, {32 * n}; setp.lt.u32 inside, t, {shared.cells};",
            f"setp.ne.and.u32 any, word{n}, 0, inside; {wide} wide, word{n}; {wide} sums, sum{n};",
            *_to_table(shared, 256 * n, few=packed),
        ]
    return lines


def _to_table(shared: Shared, place: int = 0, few: bool = False) -> list[str]:
    """Add to the cell that is `place` bytes after `to` its count `wide` and its sum `sums`, of 64 bits, if `any`; p is
    lost. few: they are less than units, which go to the second word; then they may be negative."""
    units = [
        # Where a count is less than a unit, a sum is so too.
        f"{{.reg .b64 units, more; setp.ge.and.u64 p, wide, {1 << UNIT_BITS}, any; @!p bra FEW;",
        f"shr.u64 units, wide, {UNIT_BITS}; shr.u64 more, sums, {UNIT_BITS + 8}; shl.b64 more, more, 32;",
        f"or.b64 more, more, units; red.global.add.u64 [to + {place + shared.second}], more;",
        f"and.b64 wide, wide, {(1 << UNIT_BITS) - 1}; and.b64 sums, sums, {(1 << (UNIT_BITS + 8)) - 1}; FEW:}}",
    ]
    return [
        *([] if few else units),
        f"shl.b64 sums, sums, {COUNT_BITS}; add.u64 wide, wide, sums; @any red.global.add.u64 [to + {place}], wide;",
    ]


def _flush_fours(shared: Shared) -> list[str]:
    """Four words side by side, of float16: they are one cell of a table whose keys are no longer than its mantissa
    less two bits, but where values are subnormal; and of coarser tables so are those of lanes that differ in some bits
    of their numbers: `TURN` words are of eight lanes, and the next ones of this sign 16 lanes on."""
    bits = shared.mantissa_bits
    masks = [1, 2, 4, 16][: max(8 - bits, 0)]
    lines = [
        "ld.shared.v4.b32 {word0, word1, word2, word3}, [at];",
        _LEAVE_IF_NONE,
        *_cell_of(shared, "i"),
        f"setp.lt.u32 inside, cell, {shared.cells};",
        "add.u32 cell, cell, $3; setp.ge.and.u32 inside, cell, 0x400, inside;",
        *(f"add.u32 j{n}, i, {n};" for n in range(4)),
    ]
    if 2 <= bits <= 8:
        lines += [
            "shl.b32 sign, sign, 15; or.b32 cell, cell, sign;",
            *widen("f16", "key", "cell"),
            "add.u32 t, word0, word1; add.u32 t, t, word2; add.u32 t, t, word3;",
            # Their positions are as far apart as 1 << 13 is in a key.
            "shl.b32 at, word2, 1; add.u32 at, at, word1; mad.lo.u32 at, word3, 3, at;",
            f"shr.u32 sum0, key, {15 - bits}; and.b32 sum0, sum0, 255; mul.wide.u32 sums, sum0, t;",
            f"mad.wide.u32 sums, at, {1 << (bits - 2)}, sums;",
        ]
        for mask in masks:
            lines += [
                f"shfl.sync.bfly.b32 at, t, {mask}, 31, 0xffffffff; add.u32 t, t, at; mov.b64 {{sum0, sum1}}, sums;",
                *(f"shfl.sync.bfly.b32 sum{n}, sum{n}, {mask}, 31, 0xffffffff;" for n in range(2)),
                "mov.b64 wide, {sum0, sum1}; add.u64 sums, sums, wide;",
            ]
        lines += [
            f"@!inside bra ONE_BY_ONE; mov.u32 at, %laneid; and.b32 at, at, {sum(masks)};",
            "setp.eq.u32 inside, at, 0; setp.ne.and.u32 any, t, 0, inside;",
            f"shr.u32 key, key, {23 - bits}; mad.wide.u32 to, key, 8, $2; cvt.u64.u32 wide, t;",
            *_to_table(shared),
            "bra EMPTY; ONE_BY_ONE:",
        ]
    return [*lines, *(line for n in range(4) for line in _add_to_table(shared, f"j{n}", f"word{n}", f"sum{n}"))]


def _add_to_table(shared: Shared, place: str, word: str, sums: str) -> list[str]:
    """A word of 16 bits."""
    bits = shared.mantissa_bits
    return [
        *_cell_of(shared, place),
        f"setp.lt.u32 inside, cell, {shared.cells};",
        "add.u32 key, $3, cell; shl.b32 sign, sign, 15; or.b32 key, key, sign;",
        *widen(shared.kind, "key", "key"),
        f"shr.u32 {sums}, key, {15 - bits}; and.b32 {sums}, {sums}, 255; shr.u32 key, key, {23 - bits};",
        f"setp.ne.and.u32 any, {word}, 0, inside; mad.wide.u32 to, key, 8, $2;",
        f"cvt.u64.u32 wide, {word}; mul.wide.u32 sums, {sums}, {word};",
        *_to_table(shared),
    ]


def _cell_of(shared: Shared, place: str) -> list[str]:
    """The cell of a word, and its sign; p is lost."""
    if shared.turns:
        return [
            f"shr.u32 cell, {place}, 1; and.b32 cell, cell, -{TURN}; and.b32 sign, {place}, {TURN - 1};",
            f"or.b32 cell, cell, sign; and.b32 sign, {place}, {TURN}; shr.u32 sign, sign, {TURN.bit_length() - 1};",
        ]
    return [
        f"setp.ge.u32 p, {place}, {shared.stride}; selp.b32 sign, 1, 0, p; mov.b32 cell, {place};",
        f"@p sub.u32 cell, {place}, {shared.stride};",
    ]
