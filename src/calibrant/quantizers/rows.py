"""The words of a platform table: what becomes of an operator, its inputs and its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from calibrant.core import TargetPlatform


class Role(Enum):
    """What an input is to its operator.

    DATA      an activation: on a scale of its own or its producer's; a constant in its place is a weight per tensor
    WEIGHT    a parameter, quantized per channel; where it is not constant, an activation
    BIAS      a parameter added to the products: int32, input scale x weight scale, where the platform wants it
    CONSTANT  a constant on the scale of the data: the filling of a Pad
    OTHER     shapes, indices, parameters that stay as they are
    """

    DATA = "data"
    WEIGHT = "weight"
    BIAS = "bias"
    CONSTANT = "constant"
    OTHER = "other"


class Kind(Enum):
    """What the runtime does with the operator.

    COMPUTE   runs on integers whatever stands around it: its inputs are quantized, its output if the row says so
    JOIN      runs on integers when all its data inputs are quantized already; its output has a scale of its own
    LEVEL     like JOIN, and its inputs share one scale
    ALIGN     like LEVEL, and its output is on that scale too
    PASS      moves or picks numbers: its output has the scale of its input, if that is quantized already
    """

    COMPUTE = "compute"
    JOIN = "join"
    LEVEL = "level"
    ALIGN = "align"
    PASS = "pass"


@dataclass(frozen=True)
class Row:
    """One operator.

    roles: of its inputs, in order; the last one repeats.
    output: whether COMPUTE gives integers; without it the output is float.
    fuses: activations that the runtime runs inside this operator: ONNX operators, and those of `fusion.PATTERNS`; the
        values between it and them are never quantized.
    one_input: of a JOIN, only the residual input is quantized, unless others want more (see TRT_INT8).
    """

    kind: Kind
    roles: tuple[Role, ...] = (Role.DATA,)
    output: bool = True
    fuses: tuple[str, ...] = ()
    one_input: bool = False

    def role(self, index: int) -> Role:
        """The role of input `index`."""
        return self.roles[min(index, len(self.roles) - 1)]


@dataclass(frozen=True)
class Grid:
    """Which integers a tensor of so many bits uses. narrow: without the lowest, so that -x is there for every x.

    >>> Grid(narrow=True).limits(8), Grid(signed=False).limits(8)
    ((-127, 127), (0, 255))
    """

    signed: bool = True
    symmetric: bool = False
    narrow: bool = False

    def limits(self, bits: int) -> tuple[int, int]:
        """quant_min and quant_max."""
        if not self.signed:
            return 0, (1 << bits) - 1
        half = 1 << (bits - 1)
        return -half + int(self.narrow), half - 1


@dataclass(frozen=True)
class Table:
    """A platform.

    method: the calibration method it is given unless the user says otherwise. saturated_method: that of values read by
        an operator with a Clip from above fused behind it. output_method: that of the model's outputs.
        smoothed_method: that of values whose channels a Mul brings to like ranges (see `passes.equalization`).
        weight_method: that of weights.
    float_outputs: operators on integers that can give floats; where they make an output of the model, it stays float
        unless isotone or an override asks.
    activation, weight: their grids.
    rows: by operator. float_because: what to tell the user about operators that have no row.
    symmetric_only: the runtime has no zero points. most_bits: the widest activations it can run.
    integer_bias: biases become int32. outputs_when_read: an output is quantized only where an integer operator reads
        it, and float readers take the float value; otherwise every output of an integer operator is quantized.
    fuses_by_grid: Relu and Clip are fused only where the integers saturate just there: asymmetric grids, from 0 up.
    on_x86: it runs on such processors, of which some keep the sum of two products in 16 bits (see `pairs`).
    """

    platform: TargetPlatform
    method: str
    activation: Grid
    weight: Grid
    rows: Mapping[str, Row]
    float_because: Mapping[str, str] = field(default_factory=dict)
    symmetric_only: bool = False
    most_bits: int = 8
    saturated_method: str | None = None
    output_method: str | None = None
    smoothed_method: str = "minmax"
    float_outputs: frozenset[str] = frozenset()
    weight_method: str = "minmax"
    integer_bias: bool = True
    outputs_when_read: bool = False
    fuses_by_grid: bool = False
    on_x86: bool = False


def passing(*op_types: str) -> dict[str, Row]:
    """PASS rows of operators whose first input is the data, and the others shapes or indices."""
    return {op_type: Row(Kind.PASS, (Role.DATA, Role.OTHER)) for op_type in op_types}


D, W, B, C, O = Role.DATA, Role.WEIGHT, Role.BIAS, Role.CONSTANT, Role.OTHER  # noqa: E741 (a table wants short words)
