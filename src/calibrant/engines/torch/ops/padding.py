"""How much is added on each side of the spatial axes, whichever way a node says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from calibrant.engines.torch.ops.registry import Unsupported


@dataclass(frozen=True, slots=True)
class Pads:
    """Of each spatial axis."""

    before: list[int]
    after: list[int]

    @classmethod
    def halved(cls, totals: Iterable[int], more_at_end: bool) -> Pads:
        """Half of each total on each side; of an odd one the greater half where it is said."""
        few, many = zip(*((t // 2, t - t // 2) for t in totals), strict=True)
        return cls(list(few), list(many)) if more_at_end else cls(list(many), list(few))

    @property
    def even(self) -> bool:
        """Whether both sides of every axis get the same."""
        return self.before == self.after


def resolve(
    auto_pad: str,
    pads: Sequence[int] | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:
    """SAME_UPPER, SAME_LOWER: as much as gives ceil(size / stride) outputs."""
    rank = len(kernel)
    if auto_pad == "NOTSET":
        given = list(pads or [0] * (2 * rank))
        return Pads(given[:rank], given[rank:])
    if auto_pad == "VALID":
        return Pads([0] * rank, [0] * rank)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise Unsupported(f"auto_pad {auto_pad}")
    totals = [
        max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    return Pads.halved(totals, more_at_end=auto_pad == "SAME_UPPER")


def amounts(pads: Pads) -> list[int]:
    """As torch.nn.functional.pad wants them: the last axis first."""
    return [side for pair in zip(reversed(pads.before), reversed(pads.after), strict=True) for side in pair]
