"""The words of a platform table: what becomes of an operator, its inputs and its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from calibrant.core import TargetPlatform


class Role(Enum):
    """What an input is to its operator."""

    DATA = "data"  # an activation: quantized with its own or its producer's scale
    WEIGHT = "weight"  # a parameter: quantized per channel; where it is no constant, an activation
    BIAS = "bias"  # a parameter added to the products: int32, input scale x weight scale, where the platform wants it
    CONSTANT = "constant"  # a constant on the scale of the data: the filling of a Pad
    OTHER = "other"  # shapes, indices, parameters that stay as they are


class Kind(Enum):
    """What the runtime does with the operator.

    COMPUTE   runs on integers whatever stands around it: its inputs are quantized, its output if the row says so
    JOIN      runs on integers when all its data inputs are quantized already; its output has a scale of its own
    ALIGN     like JOIN, and all its inputs and its output share one scale
    PASS      moves or picks numbers: its output has the scale of its input, if that is quantized already
    RESCALE   like PASS, with a scale of its own
    """

    COMPUTE = "compute"
    JOIN = "join"
    ALIGN = "align"
    PASS = "pass"
    RESCALE = "rescale"


@dataclass(frozen=True)
class Row:
    """One operator. roles: of its inputs, in order; the last one repeats. output: whether COMPUTE quantizes it.

    fuses: activations that the runtime runs inside this operator; the value between them is never quantized.
    """

    kind: Kind
    roles: tuple[Role, ...] = (Role.DATA,)
    output: bool = True
    fuses: tuple[str, ...] = ()

    def role(self, index: int) -> Role:
        """The role of input `index`."""
        return self.roles[min(index, len(self.roles) - 1)]


@dataclass(frozen=True)
class Grid:
    """The integers of a tensor of 8 bits, and whether 0 is real 0.

    narrow: a symmetric grid without its lowest integer, -127..127, so that -x is there for every x.
    """

    signed: bool = True
    symmetric: bool = False
    narrow: bool = False

    def limits(self, bits: int) -> tuple[int, int]:
        """quant_min and quant_max with that many bits.

        >>> Grid(narrow=True).limits(8), Grid(signed=False).limits(8)
        ((-127, 127), (0, 255))
        """
        if not self.signed:
            return 0, (1 << bits) - 1
        half = 1 << (bits - 1)
        return -half + int(self.narrow), half - 1


@dataclass(frozen=True)
class Table:
    """A platform.

    method: the calibration method that serves it best. rows: by operator. float_because: what to tell the user about
    operators without a row. outputs_when_read: outputs are quantized only where a quantized operator reads them.
    """

    platform: TargetPlatform
    method: str
    activation: Grid
    weight: Grid
    rows: Mapping[str, Row]
    bias_is_integer: bool = True
    outputs_when_read: bool = False
    float_because: Mapping[str, str] = field(default_factory=dict)
