"""What the runtimes that read Q/DQ models differ in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from calibrant.core import TargetPlatform


class GridClip(Enum):
    """How values are kept inside a grid that is narrower than its storage type; QuantizeLinear saturates at the type.

    All three agree wherever nothing saturates.
    """

    INTEGER = "a Clip of the integers, between Q and DQ: a computing op before Q still fuses with it"
    FLOAT = "a Clip of the float values, before Q"
    NONE = "not at all: the runtime's own grid is the storage type's"


@dataclass(frozen=True)
class Dialect:
    """How one runtime wants its Q/DQ model.

    folds_activations: a Relu or Clip between a computing op and its Q moves behind Q, where the grid mostly makes it
        superfluous; the computing op then stands next to its Q.
    integer_bias: biases are int32; else they stay in float.
    contrib_16_bits: where opset 21 is not declared, 16-bit Q/DQ are onnxruntime's own ops.
    overreaches: it makes integer operations of what is to run in float, and has to be kept from that: see `in_float`.
    """

    platform: TargetPlatform
    clip: GridClip
    folds_activations: bool = False
    integer_bias: bool = True
    contrib_16_bits: bool = False
    overreaches: bool = False
