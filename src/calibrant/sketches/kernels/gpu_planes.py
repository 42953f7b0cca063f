"""How a tensor's elements are those of its groups, for the kernels on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from calibrant.sketches.layout import Layout


@dataclass(frozen=True, slots=True)
class Planes:
    """How a tensor's elements are those of its groups: see `gpu_portable`."""

    groups: int
    outer: int
    inner: int
    plane: int
    beside: int
    step: int

    @classmethod
    def whole(cls, size: int) -> Planes:
        """All elements as one group."""
        return cls(1, 1, size, 0, 0, 1)

    @classmethod
    def of(cls, layout: Layout, size: int) -> Planes:
        """The groups of a contiguous tensor: its channels."""
        groups, inner = layout.channels, layout.inner
        if groups == 1:
            return cls.whole(size)
        if layout.lanes == groups:
            return cls(groups, 1, size // groups, 0, 1, groups)
        return cls(groups, size // (groups * inner), inner, groups * inner, inner, 1)
