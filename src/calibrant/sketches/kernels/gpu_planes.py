"""How a tensor's elements are those of its groups, for the kernels on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

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

    def pieces(self, most: int) -> Iterator[tuple[int, Planes]]:
        """The same elements in pieces of at most so many of each group: where each begins in memory, and its planes."""
        outer, inner = max(most // self.inner, 1), min(self.inner, most)
        for n in range(0, self.outer, outer):
            for i in range(0, self.inner, inner):
                own = replace(self, outer=min(outer, self.outer - n), inner=min(inner, self.inner - i))
                yield n * self.plane + i * self.step, own
