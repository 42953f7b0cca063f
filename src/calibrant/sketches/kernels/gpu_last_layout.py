"""How `gpu_last` uses the shared memory and the registers of its program.

In shared memory there is a word for each cell of each channel: for each sign of each channel the `cells` of a window
that lies elsewhere on the number line for each channel. The words of one cell of channels that are counted at once lie
side by side: so the lanes of a row are never in each other's way. That are every fourth channel of float32, and all of
16 bits, of whose two in a register the lanes of every other row count the upper one first. Count and sum of positions
share a word, as count << sum_bits | sum; a word has room for `limit` elements. What is outside the window,
as zeros are, goes to a word that nobody adds to a table, another one for each row that is counted at once: zeros are
counted in a register, finite values go straight to the table in global memory. Where each channel of a warp has one
value for long, tiles are counted instead: `repeats` of what is in `same`.

Each warp has slots of its own, a ring, to which the tensor memory accelerator brings what the warp counts next: so no
warp waits for another.

A thread reads a `vector` of channels, always the same. In registers that `begin`, `place` and `fetch_first` fill, and
that every assembly after them knows, it has of each where its words and its window begin, how many zeros there were,
and the extremes of all lanes that read this channel, with its own hits of them: NO_TOP with no hits stands for no value
yet, and NEAR_ZERO with no hits for zero, whose hits are the zeros. Of 16 bits, two in a register, it has what is next
`below` each top and next `above` each bottom too. `away` is how many elements are in no word, or no longer, zeros
aside.
"""

from __future__ import annotations

from dataclasses import dataclass

STRIP = 128  # words that a warp looks at together

# From word `misc` on, which is the count of the fullest word: how many elements there were by all counts, which grows;
# where the first channel's table is, and the bytes from one to the next; the lowest bits of each channel's window; of
# each channel how many were NaN, of each how many +Inf, and -Inf; a word for each lane that nobody reads; a bit for
# each of the last tiles of each warp, of which no element was added to a word; then the warps' barriers and, a row
# further on, their slots, or, in the end, what `park` found, a field after the other, each (warps, channels).
COUNTED, TABLE, PITCH = 1, 2, 4
MISC_ROW = 128  # words, of which each of these begins one
LOWS, NOT_FINITE, UNREAD, SKIPPED, FOUND, FIELDS_FOUND = *(MISC_ROW * n for n in (1, 2, 3, 4, 8)), 5
SKIPPED_WORDS = 32  # of a warp: bits for as many tiles as words may hold

NO_TOP, NO_BOTTOM = 0xFF7FFFFF, 0x7F7FFFFF  # the lowest and the highest finite value
NEAR_ZERO = 1  # bits of the least positive value
EVERY = "0xffffffff"
ONES = "0x00010001"  # in either half of a word
OWN_BITS = {"f32": 23, "bf16": 7, "f16": 10}  # of a mantissa


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
    slots: int

    @property
    def vector(self) -> int:
        """Channels of a thread."""
        return 4 if self.kind == "f32" else 2

    @property
    def across(self) -> int:
        """Lanes that read one row."""
        return self.channels // self.vector

    @property
    def apart(self) -> int:
        """Stretches of words that channels share, each with its neighbour in another one."""
        return self.vector if self.kind == "f32" else 1

    @property
    def beside(self) -> int:
        """Channels whose words of one cell lie side by side."""
        return self.channels // self.apart

    @property
    def rows(self) -> int:
        """Of a tile: what all threads look at together."""
        return self.threads * self.elements // self.channels

    @property
    def registers(self) -> int:
        """That a thread's elements take."""
        return self.elements // (1 if self.kind == "f32" else 2)

    @property
    def row(self) -> int:
        """Registers of a thread's elements of one row."""
        return self.vector * self.registers // self.elements

    @property
    def slot(self) -> int:
        """Bytes of a tile that a warp looks at."""
        return 32 * 4 * self.registers

    @property
    def ring(self) -> int:
        """The word of shared memory where the warps' barriers are; a row further on, their slots. `park` takes that
        room too."""
        return self.misc + FOUND

    @property
    def words(self) -> int:
        """Of shared memory, all together."""
        slots = MISC_ROW + self.threads // 32 * self.slots * self.slot // 4
        return self.ring + max(slots, FIELDS_FOUND * self.threads // 32 * self.channels)

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
    def factor(self) -> int:
        """Bytes from a cell's words to the next, or as many as a bit of what is finer stands for."""
        return 4 * self.beside >> self.finer or 4 * self.beside

    @property
    def coarser(self) -> int:
        """By how many bits a cell of the table may be finer than a word: then not all are used."""
        return max(self.mantissa_bits - self.own_bits, 0)

    @property
    def bias(self) -> int:
        """What makes the bits of an exponent those of float32's."""
        return (127 - 15) << self.own_bits if self.kind == "f16" else 0

    @property
    def position_bits(self) -> int:
        """Of these, the ones of a position."""
        return min(self.finer, 8)

    @property
    def cells(self) -> int:
        """Words of a sign of a channel: of 16 bits, some more, for what is outside, one for each row that is counted at
        once; as many as are looked at together or a multiple."""
        together = STRIP * (1 if self.kind == "f32" else 2) // self.beside
        return -(-((self.span >> self.finer) + (0 if self.kind == "f32" else 32 // self.beside)) // together) * together

    @property
    def sign(self) -> int:
        """Words from a sign's first cell to the other's."""
        return self.cells * self.beside

    @property
    def misc(self) -> int:
        """The word behind all cells."""
        return 2 * self.apart * self.sign

    @property
    def sum_bits(self) -> int:
        """Of a word, for the sum of positions."""
        return (32 + self.position_bits) // 2

    @property
    def limit(self) -> int:
        """How many elements a word has room for, whatever they are."""
        most = (1 << 32 - self.sum_bits) - 1
        return min(most, ((1 << self.sum_bits) - 1) // max((1 << self.position_bits) - 1, 1))

    @property
    def masks(self) -> list[int]:
        """By which lanes differ that read the same channels."""
        return [mask for mask in (1, 2, 4, 8, 16) if mask >= self.across]
