"""Layout: which channel each element of a tensor's memory belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from calibrant.core import DataError


class Layout(NamedTuple):
    """Element i of the memory is in channel  (i // (inner * lanes) % blocks) * lanes + i % lanes.

    channels: how many there are. In the last block some lanes may lie beyond: padding, which is never counted.
    Channels first: lanes = 1 and blocks = channels; channels last: blocks = 1 and lanes = channels;
    no channels: all three are 1. Blocked (onnxruntime's NCHWc): lanes = 8 or 16.
    """

    blocks: int
    inner: int
    lanes: int
    channels: int

    @classmethod
    def of(cls, shape: Sequence[int], channel_axis: int | None) -> Layout:
        """The layout of a C-contiguous tensor of that shape. DataError where the shape lacks the axis."""
        if channel_axis is None:
            return cls(1, max(prod(shape), 1), 1, 1)
        axis = positive_axis(channel_axis, shape, "channel_axis")
        channels, inner = shape[axis], prod(shape[axis + 1 :])
        if inner == 1 and channels > 1:
            return cls(1, max(prod(shape[:axis]), 1), channels, channels)
        return cls(max(channels, 1), max(inner, 1), 1, channels)

    @classmethod
    def of_blocked(cls, shape: Sequence[int], channels: int) -> Layout:
        """The layout of [N, ceil(channels / B), spatial..., B]. DataError where shape and channels do not agree."""
        if len(shape) < 3 or channels < 1 or shape[-1] < 1 or shape[1] != -(-channels // shape[-1]):
            raise DataError(
                f"a blocked tensor of {channels} channels has the shape [N, ceil({channels} / B), ..., B], "
                f"got {list(shape)}"
            )
        return cls(shape[1], max(prod(shape[2:-1]), 1), shape[-1], channels)

    @property
    def padded(self) -> bool:
        """Whether some lanes of the last block are padding."""
        return self.blocks * self.lanes != self.channels

    def most_of_one_channel(self, base: int, size: int) -> int:
        """At most so many of `size` elements from number `base` on are in the same channel."""
        period = self.blocks * self.inner * self.lanes
        touched = (base + size - 1) // period - base // period + 1
        return min(size, touched * self.inner)

    def merged(self) -> Layout:
        """The same memory with all channels as one. Not for a padded layout: its padding must stay known."""
        return Layout(1, self.blocks * self.inner * self.lanes, 1, 1)


def positive_axis(axis: int, shape: Sequence[int], name: str) -> int:
    """`axis` counted from the front. DataError where the shape has no such axis."""
    if not -len(shape) <= axis < len(shape):
        raise DataError(f"{name} {axis} does not fit a tensor of shape {list(shape)}")
    return axis % len(shape)
