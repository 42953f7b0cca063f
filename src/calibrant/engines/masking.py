"""Masking: what counts of a padded batch, where an input of the model says which positions are padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calibrant.core import DataError
from calibrant.engines.axes import Axes, Kept
from calibrant.engines.following import find_axes
from calibrant.engines.probing import Forward
from calibrant.engines.samples import Feed
from calibrant.graph import Graph

X = TypeVar("X")


class Masking:
    """Of each value, what its samples would have without padding: as if each ran alone, without the padded positions.

    mask: the input, [batch, sequence], 1 where a position counts and 0 where it is padding.
    names: of the values. forward: runs the model, to find out which of their axes run along the sequence.
    A value that has no samples of its own counts once for each sample, as it would if each ran alone.
    """

    def __init__(self, graph: Graph, mask: str, names: Sequence[str], forward: Forward) -> None:
        self._graph = graph
        self.mask = mask
        self._names = names
        self._forward: Forward | None = forward
        self._axes: dict[str, Axes] = {}

    def prepare(self, feed: Feed) -> None:
        """Find the axes of all values by a first sample; nothing where they are known.

        Raises DataError for a mask that is none, ObservationError for values whose axes cannot be told.
        """
        if self._forward is not None:
            self.kept(feed)
            self._axes = find_axes(self._graph, self.mask, self._names, feed, self._forward)
            self._forward = None  # and with it the session that it opened

    def kept(self, feed: Feed, number: int = 1) -> list[Kept]:
        """See `kept_of`."""
        return kept_of(self.mask, feed, number)

    def parts(self, values: Mapping[str, X], kept: Sequence[Kept]) -> Iterator[dict[str, X]]:
        """What counts of the values of a batch, in parts: each is to be counted like a batch of its own.

        values: arrays or tensors of names that were announced. Raises DataError, naming the value, where its sizes are
        not those of the batch.
        """
        whole = {name: x for name, x in values.items() if self._axes[name].has_no_positions}
        if whole:
            yield whole
        for sample in kept:
            cut = {name: self._cut(name, x, sample) for name, x in values.items() if name not in whole}
            if cut:
                yield cut

    def _cut(self, name: str, x: Any, sample: Kept) -> Any:
        try:
            return self._axes[name].cut(x, sample)
        except DataError as error:
            raise DataError(f"value '{name}', shape {list(x.shape)}: {error}") from None


def kept_of(name: str, feed: Feed, number: int = 1) -> list[Kept]:
    """The positions that count, of each sample of a batch. name: of the mask. number: of the batch, for messages.

    Raises DataError where the mask is not [batch, sequence], has other values than 0 and 1, or leaves nothing of a
    sample.
    """
    mask = feed[name]
    where = f"sample {number}, mask '{name}'"
    if mask.ndim != 2:
        raise DataError(f"{where}: expected the shape [batch, sequence], got {list(mask.shape)}")
    counts = mask == 1
    strange = mask[~counts & (mask != 0)]
    if strange.size:
        raise DataError(f"{where}: expected 1 where a position counts and 0 where it is padding, got {strange.flat[0]}")
    empty = np.flatnonzero(~counts.any(axis=1))
    if empty.size:
        raise DataError(
            f"{where}: nothing is left of row {empty[0]} of {len(mask)}, where every position is padding: leave the "
            "row out"
        )
    batch, length = mask.shape
    return [Kept(row, batch, length, _positions(counts[row])) for row in range(batch)]


def _positions(counts: NDArray[np.bool_]) -> slice | NDArray[np.int64]:
    """Where it is true: a slice if that is one stretch, so that nothing needs copying."""
    places = np.flatnonzero(counts)
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places
