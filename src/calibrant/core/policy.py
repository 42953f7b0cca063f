"""How a tensor is quantized, which state its config is in, and how values are rounded. PPQ's names."""

from __future__ import annotations

from enum import Enum, IntFlag

from calibrant.core.errors import ConfigError


class QuantizationProperty(IntFlag):
    """What a quantization policy is made of; join properties with `|` or `+`."""

    PER_TENSOR = 0x01
    PER_CHANNEL = 0x02
    LINEAR = 0x04
    FLOATING = 0x08
    SYMMETRICAL = 0x10
    ASYMMETRICAL = 0x20
    POWER_OF_2 = 0x40
    DYNAMIC = 0x80


_P = QuantizationProperty
_CHOICES = (
    (_P.PER_TENSOR, _P.PER_CHANNEL),
    (_P.LINEAR, _P.FLOATING),
    (_P.SYMMETRICAL, _P.ASYMMETRICAL),
)


class QuantizationPolicy:
    """A checked combination of properties: one of each pair, and POWER_OF_2 and DYNAMIC as extras.

    >>> QuantizationPolicy(_P.PER_TENSOR | _P.LINEAR | _P.SYMMETRICAL).has_property(_P.LINEAR)
    True

    Raises ConfigError when a pair is missing or both of it are given, and for POWER_OF_2 without LINEAR.
    """

    __slots__ = ("properties",)
    properties: QuantizationProperty

    def __init__(self, properties: int | QuantizationPolicy) -> None:
        if isinstance(properties, QuantizationPolicy):
            self.properties = properties.properties
            return
        bits = int(properties)
        if not 0 < bits <= 0xFF:
            raise ConfigError(f"quantization policy {bits:#x} is not a combination of QuantizationProperty values")
        self.properties = QuantizationProperty(bits)
        for one, other in _CHOICES:
            if self.has_property(one) == self.has_property(other):
                found = "both" if self.has_property(one) else "neither"
                raise ConfigError(f"a policy takes either {one.name} or {other.name}, got {found}: {self!r}")
        if self.has_property(_P.POWER_OF_2) and not self.has_property(_P.LINEAR):
            raise ConfigError(f"POWER_OF_2 scales need a LINEAR policy, got {self!r}: replace FLOATING by LINEAR")

    def has_property(self, what: QuantizationProperty) -> bool:
        """Whether `what` is part of the policy."""
        return bool(int(self.properties) & int(what))  # numbers: & of flags makes a flag, which takes long

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantizationPolicy) and self.properties == other.properties

    def __hash__(self) -> int:
        return hash(self.properties)

    def __repr__(self) -> str:
        return f"QuantizationPolicy({' | '.join(p.name or '' for p in QuantizationProperty if p & self.properties)})"


class QuantizationStates(Enum):
    """Where a config stands.

    INITIAL        waits for its observer
    ACTIVATED      its scale and offset are found
    BAKED          a weight whose scale is found and that is to be stored as integers
    OVERLAPPED     covered by another config, which decides
    PASSIVE_INIT   waits for the configs it depends on (a bias: input scale and weight scale)
    PASSIVE        its scale follows from theirs
    PASSIVE_BAKED  the same, to be stored as integers
    FP32           stays in float
    """

    INITIAL = 1
    BAKED = 2
    OVERLAPPED = 3
    ACTIVATED = 4
    PASSIVE = 5
    PASSIVE_INIT = 6
    PASSIVE_BAKED = 7
    FP32 = 8


SOLVED = (  # the scale is found
    QuantizationStates.ACTIVATED,
    QuantizationStates.BAKED,
    QuantizationStates.PASSIVE,
    QuantizationStates.PASSIVE_BAKED,
)
IN_FLOAT = (QuantizationStates.FP32, QuantizationStates.OVERLAPPED)  # a value whose config is so is not quantized


class RoundingPolicy(Enum):
    """What becomes of a value between two integers; `calibrant.core.rounding` has the arithmetic.

    The five ROUND_HALF policies differ at ties alone. ROUND_TO_NEAR_INT is C's `round`, ties away from zero;
    ROUND_UP is the ceiling. (`FAR_FORM` is PPQ's spelling, kept.)
    """

    ROUND_HALF_EVEN = 0
    ROUND_HALF_UP = 1
    ROUND_HALF_DOWN = 2
    ROUND_HALF_TOWARDS_ZERO = 3
    ROUND_HALF_FAR_FORM_ZERO = 4
    ROUND_TO_NEAR_INT = 5
    ROUND_UP = 6
