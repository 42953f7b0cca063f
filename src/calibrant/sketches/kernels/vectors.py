"""The innermost loops of `cpu.count`, over vectors: built by hand from what LLVM has, for whatever processor it is.

A loop of numba's would neither keep sixteen accumulators in registers nor squeeze a vector together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from calibrant.sketches.cells import I32
from calibrant.sketches.kernels.jit import inline

U32 = NDArray[np.uint32]

FURTHER = 32  # vectors, that are brought into the nearest cache meanwhile
NEAR, NEAREST = 2, 3  # the second cache and the first, in LLVM's words
V = 16  # lanes of a vector; where the processor has fewer, LLVM takes several

# What is found of each lane: the least of its bits, the greatest, the greatest as unsigned (that has the sign where one
# has), how many are zero (all that are counted, less the others); an end to look for below and above, and how many
# elements equal it; which channel it is of, -1 where it is not to be counted; and a row for what fills no vector.
LEAST, GREATEST, UNSIGNED, NONE, LOW, HIGH, AT_LOW, AT_HIGH, CHANNEL, EDGE, KINDS = range(11)

_WORD, _LANES = ir.IntType(32), ir.VectorType(ir.IntType(32), V)


def _all(number: int) -> Any:
    return ir.Constant(_LANES, [number] * V)


def _prefetch(builder: Any, data: Any, place: Any, cache: int) -> None:
    pointer = builder.bitcast(builder.gep(data, [place]), cgutils.voidptr_t)
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _WORD, _WORD, _WORD])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, _WORD(0), _WORD(cache), _WORD(1)])  # to read; data


class _Vectors:
    """Builds a loop over vectors, by the arguments 0 to 6.

    bits, start, stride, turns: the vectors begin at bits[start + stride * n], n < turns. lanes: only so many count, of
    those with a channel. found, vector: what is found of each lane, a row for each kind; and whose V columns.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.context, self.builder, self.signature, self.arguments = context, builder, signature, arguments
        limit = self.everywhere(builder.trunc(arguments[4], _WORD))
        has_channel = builder.icmp_signed(">=", builder.load(self.row(CHANNEL), align=4), _all(0))
        self.counted = builder.and_(has_channel, builder.icmp_signed("<", ir.Constant(_LANES, list(range(V))), limit))

    def array(self, number: int) -> Any:
        """Argument `number`, an array."""
        return self.context.make_array(self.signature.args[number])(self.context, self.builder, self.arguments[number])

    def everywhere(self, number: Any) -> Any:
        """A number in every lane."""
        b = self.builder
        vector = b.insert_element(_all(0), number, _WORD(0))
        return b.shuffle_vector(vector, vector, _all(0))

    def pointer(self, data: Any, place: Any) -> Any:
        """To the vector that begins at an element."""
        return self.builder.bitcast(self.builder.gep(data, [place]), _LANES.as_pointer())

    def row(self, kind: int) -> Any:
        """Of what is found of the vector: a pointer."""
        b, found = self.builder, self.array(5)
        columns = cgutils.unpack_tuple(b, found.shape, 2)[1]
        start = b.mul(columns, columns.type(kind))
        return self.pointer(found.data, b.add(start, b.mul(self.arguments[6], columns.type(V))))

    def held(self, kind: int) -> Any:
        """That row in a variable, which the compiler keeps in registers."""
        place = cgutils.alloca_once(self.builder, _LANES)
        self.builder.store(self.builder.load(self.row(kind), align=4), place)
        return place

    def release(self, kind: int, place: Any) -> None:
        """The variable back into the row."""
        self.builder.store(self.builder.load(place), self.row(kind), align=4)

    def loop(self) -> Any:
        """For each vector: its elements."""
        b, (start, stride, turns) = self.builder, self.arguments[1:4]
        with cgutils.for_range(b, turns) as turn:
            place = b.add(start, b.mul(stride, turn.index))
            _prefetch(b, self.array(0).data, b.add(place, b.mul(stride, stride.type(FURTHER))), NEAREST)
            yield b.load(self.pointer(self.array(0).data, place), align=4)

    def call(self, name: str, *arguments: Any) -> Any:
        """LLVM's function of that name, on vectors."""
        function = ir.FunctionType(_LANES, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function, name), arguments)

    def add(self, number: int, place: Any, condition: Any) -> None:
        """Add a number to the lanes of a variable for which it holds."""
        b = self.builder
        before = b.load(place)
        b.store(b.select(condition, b.add(before, _all(number)), before), place)


@inline
def scan(
    _: Any,
    bits: I32,
    start: int,
    stride: int,
    turns: int,
    lanes: int,
    found: I32,
    vector: int,
    room: U32,
    kept: int,
    shift: int,
) -> Any:
    """Find LEAST, GREATEST and UNSIGNED; take what is not zero from NONE, and its words to the room.

    Words are written from `kept` on, V at a time, of which the last may mean nothing. How many the room then holds.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = _Vectors(context, builder, signature, arguments)
        least, greatest, unsigned, zeros = (v.held(kind) for kind in (LEAST, GREATEST, UNSIGNED, NONE))
        room, kept = v.array(7).data, cgutils.alloca_once_value(builder, arguments[8])
        down = v.everywhere(builder.trunc(arguments[9], _WORD))
        for x in v.loop():
            for place, name in ((least, "smin"), (greatest, "smax"), (unsigned, "umax")):
                builder.store(v.call(f"llvm.{name}.v{V}i32", builder.load(place), x), place)
            magnitude = builder.and_(x, _all(0x7FFFFFFF))
            wanted = builder.and_(v.counted, builder.icmp_signed("!=", magnitude, _all(0)))
            v.add(-1, zeros, wanted)
            words = builder.or_(builder.lshr(x, down), _all(-(1 << 31)))
            words = v.call(f"llvm.experimental.vector.compress.v{V}i32", words, wanted, _all(0))
            builder.store(words, v.pointer(room, builder.load(kept)), align=4)
            more = builder.call(
                builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(V)]),
                [builder.bitcast(wanted, ir.IntType(V))],
            )
            builder.store(builder.add(builder.load(kept), builder.zext(more, ir.IntType(64))), kept)
        for kind, place in ((LEAST, least), (GREATEST, greatest), (UNSIGNED, unsigned), (NONE, zeros)):
            v.release(kind, place)
        return builder.load(kept)

    return types.int64(bits, *[types.int64] * 4, found, types.int64, room, types.int64, types.int64), build


@inline
def equal(_: Any, bits: I32, start: int, stride: int, turns: int, lanes: int, found: I32, vector: int) -> Any:
    """Count the elements that equal LOW and HIGH into AT_LOW and AT_HIGH."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = _Vectors(context, builder, signature, arguments)
        low, high, at_low, at_high = (v.held(kind) for kind in (LOW, HIGH, AT_LOW, AT_HIGH))
        for x in v.loop():
            for end, place in ((low, at_low), (high, at_high)):
                v.add(1, place, builder.and_(v.counted, builder.icmp_signed("==", x, builder.load(end))))
        v.release(AT_LOW, at_low)
        v.release(AT_HIGH, at_high)
        return context.get_dummy_value()

    return types.void(bits, *[types.int64] * 4, found, types.int64), build


@inline
def prefetch(_: Any, array: Any, place: int) -> Any:
    """Have the memory around an element of an array of numbers brought into the second cache. No promise, no wait."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        _prefetch(builder, data, arguments[1], NEAR)
        return context.get_dummy_value()

    return types.void(array, types.int64), build


@inline
def pointer(_: Any, address: int, kind: Any) -> Any:
    """To numbers of a kind (np.int32, say) at an address, for numba's `carray`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(types.int64, kind), build
