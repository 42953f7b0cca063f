"""Axes: which axes of a value run along the batch and along the sequence, and what belongs to one of its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from calibrant.core import DataError


@dataclass(frozen=True, slots=True)
class Kept:
    """The positions of one sample of a batch that count.

    number: which sample. batch, length: the sizes of the batch. positions: a slice where they lie side by side, else
    their numbers, in whatever form the arrays are indexed by.
    """

    number: int
    batch: int
    length: int
    positions: Any


@dataclass(frozen=True, slots=True)
class Axes:
    """Where a value has the samples of a batch, and their positions.

    batch: the axis of the samples; None where the value is the same for all of them.
    is_outer: whether samples are the slowest part of that axis, as in [batch * heads, ...]; else the fastest.
    sequence: the axes of positions. In [batch * sequence, hidden] that is the axis of the samples as well.
    """

    batch: int | None = None
    is_outer: bool = True
    sequence: tuple[int, ...] = ()

    @property
    def has_no_positions(self) -> bool:
        """Whether all of it counts, once for the whole batch."""
        return self.batch is not None and not self.sequence

    def cut(self, x: Any, kept: Kept) -> Any:
        """What `x`, an array or tensor, has of one sample at its positions that count.

        Exactly what it would be of that sample alone, without padding: of the same rank, each axis where it was.
        Raises DataError where its sizes are not those of the batch.
        """
        if self.batch is not None:
            x = self._sample(x, self.batch, kept)
        for axis in self.sequence:
            if x.shape[axis] != kept.length:
                raise DataError(f"got {x.shape[axis]} positions on axis {axis}, the mask has {kept.length}")
            x = x[(slice(None),) * axis + (kept.positions,)]
        return x

    def _sample(self, x: Any, axis: int, kept: Kept) -> Any:
        shape = tuple(x.shape)
        rest, left = divmod(shape[axis], kept.batch)
        if left:
            raise DataError(f"got {shape[axis]} on axis {axis}, which {kept.batch} samples cannot share")
        parts = (kept.batch, rest) if self.is_outer else (rest, kept.batch)
        x = x.reshape(*shape[:axis], *parts, *shape[axis + 1 :])
        return x[(slice(None),) * (axis + (not self.is_outer)) + (kept.number,)]
