"""Runs of a model in several sizes, and what the sizes of its values follow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import DataError, ModelError
from calibrant.engines.samples import Feed
from calibrant.graph import Graph

Forward = Callable[[Feed, Sequence[str]], list[NDArray[Any]]]
Shape = tuple[int, ...]
Extents = tuple[int, ...]
"""The sizes of one axis, in each run."""


class Unclear(Exception):
    """Why the axes of a value cannot be told."""


class Kind(Enum):
    """What lies along an axis. BOTH: positions of all samples. SHARED: samples, and something else of each."""

    OTHER = "other"
    SAMPLES = "samples"
    POSITIONS = "positions"
    BOTH = "both"
    SHARED = "shared"

    @property
    def has_samples(self) -> bool:
        return self in (Kind.SAMPLES, Kind.BOTH, Kind.SHARED)

    @property
    def has_positions(self) -> bool:
        return self in (Kind.POSITIONS, Kind.BOTH)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a padded batch."""

    batch: int
    length: int


@dataclass(frozen=True, slots=True)
class Runs:
    """The shapes of values in runs of several sizes."""

    sizes: Sequence[Sizes]
    shapes: Sequence[Mapping[str, Shape]]

    @property
    def batch_varies(self) -> bool:
        return len(set(self.batches)) > 1

    @property
    def length_varies(self) -> bool:
        return len(set(self.lengths)) > 1

    @property
    def batches(self) -> Extents:
        return tuple(sizes.batch for sizes in self.sizes)

    @property
    def lengths(self) -> Extents:
        return tuple(sizes.length for sizes in self.sizes)

    @property
    def totals(self) -> Extents:
        """How many positions all samples have together."""
        return tuple(sizes.batch * sizes.length for sizes in self.sizes)

    def extents(self, name: str) -> list[Extents]:
        """Of each axis of a value. Raises Unclear where its rank varies."""
        shapes = [shapes[name] for shapes in self.shapes]
        if len({len(shape) for shape in shapes}) > 1:
            raise Unclear("its rank depends on the sizes")
        return list(zip(*shapes, strict=True))

    def kinds(self, name: str) -> list[Kind]:
        """What lies along each axis of a value. Raises Unclear where its sizes do not tell."""
        return [self._kind(axis, extents) for axis, extents in enumerate(self.extents(name))]

    def _kind(self, axis: int, found: Extents) -> Kind:
        several = max(self.batches) > 1
        if several and found == self.batches == self.lengths:
            raise Unclear(f"axis {axis} is as large as the batch, and as long as the sequence")
        if several and found == self.batches:
            return Kind.SAMPLES
        if found == self.lengths:
            return Kind.POSITIONS
        if several and found == self.totals:
            return Kind.BOTH
        if len(set(found)) == 1:
            return Kind.OTHER
        share, left = divmod(found[0], self.batches[0])
        if not left and found == tuple(share * rows for rows in self.batches):
            return Kind.SHARED
        raise Unclear(f"axis {axis} is {found[0]}, {found[1]}, ... for {_in_words(self.sizes)}")


def free_sizes(graph: Graph, mask: str) -> tuple[bool, bool]:
    """Whether the model says that batches may be of any size, and sequences of any length."""
    batch, length = graph.shape_of(mask) or (None, None)
    return _is_free(batch), _is_free(length)


def axes_of_inputs(graph: Graph, mask: str, feed: Feed) -> dict[str, list[str | None]]:
    """Of each input, for each axis what it runs along, as `Sizes` has it; None: neither.

    Told by the names of dimensions, where the mask's have them; else by place, and by size in this sample.
    """
    batch, length = feed[mask].shape
    named = graph.shape_of(mask) or [None, None]

    def along(axis: int, dim: int | str | None, size: int) -> str | None:
        if not _is_free(dim):
            return None
        if dim is not None and dim in named:
            return "batch" if dim == named[0] else "length"
        if axis == 0 and size == batch:
            return "batch"
        return "length" if size == length else None

    found = {}
    for name, array in feed.items():
        dims = graph.shape_of(name) or [None] * array.ndim
        found[name] = [along(*each) for each in zip(range(array.ndim), dims, array.shape, strict=True)]
    return found


class Probe:
    """Runs a model on a sample in other sizes: cut, or its rows and positions over and over again.

    mask: the input [batch, sequence] that has the sizes. forward: gives values of a sample by their names.
    """

    def __init__(self, graph: Graph, mask: str, feed: Feed, forward: Forward) -> None:
        self._feed = feed
        self._forward = forward
        self._own = Sizes(*feed[mask].shape)
        self._free = free_sizes(graph, mask)
        self._along = axes_of_inputs(graph, mask, feed)

    def run(self, names: Collection[str]) -> Runs:
        """The shapes of these values, in two batches and two lengths, as far as the model takes others than its own.

        Raises ModelError where it does not run even in these.
        """
        own, wanted = self._own, list(dict.fromkeys(names))
        for batch_varies, length_varies in ((True, True), (True, False), (False, True)):
            if (batch_varies and not self._free[0]) or (length_varies and not self._free[1]):
                continue
            rows = 2 if batch_varies else own.batch
            sizes = [Sizes(rows, own.length)]
            sizes += [Sizes(rows + 1, own.length)] if batch_varies else []
            sizes += [Sizes(rows, own.length // 2 or 2)] if length_varies else []
            try:
                return self._in(sizes, wanted)
            except (ModelError, DataError):  # a size may be built into the model, though its inputs leave it free
                continue
        return self._in([own], wanted)

    def _in(self, sizes: Sequence[Sizes], names: Sequence[str]) -> Runs:
        shapes = []
        for each in sizes:
            values = self._forward(self._resized(each), names)
            shapes.append({name: tuple(value.shape) for name, value in zip(names, values, strict=True)})
        return Runs(sizes, shapes)

    def _resized(self, sizes: Sizes) -> Feed:
        feed = {}
        for name, array in self._feed.items():
            for axis, along in enumerate(self._along[name]):
                if along is not None:
                    array = array.take(np.arange(getattr(sizes, along)) % array.shape[axis], axis)
            feed[name] = np.ascontiguousarray(array)
        return feed


def _in_words(sizes: Sequence[Sizes]) -> str:
    return ", ".join(f"{each.batch} x {each.length}" for each in sizes) + " positions"


def _is_free(dim: int | str | None) -> bool:
    return not isinstance(dim, int) or dim < 0  # some exporters write a free dimension as -1
