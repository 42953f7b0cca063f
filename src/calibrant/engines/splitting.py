"""Batches whose values would not fit into memory, in parts that do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from calibrant.core import ModelError
from calibrant.engines.samples import Feed, InputSpec

MIB = 1 << 20
_Shapes = tuple[tuple[int, ...], ...]


class Splitter:
    """Cuts batches along their first axis so that the values exposed for one part take at most `limit` bytes.

    Only where every input has a first axis that the model leaves free, of the same size in all of them.
    note: told once when batches are split, and once when one that is too large cannot be.
    """

    def __init__(self, limit: int, inputs: Sequence[InputSpec], note: Callable[[str], None]) -> None:
        self._limit = limit
        self._free = all(spec.shape and not isinstance(spec.shape[0], int) for spec in inputs)
        self._note = note
        self._noted: set[str] = set()
        self._per_row: dict[_Shapes, float] = {}  # bytes of one row, by the shapes of that row's inputs
        self._per_element = 0.0  # bytes for each element of the inputs, the most seen

    def first_row(self, feed: Feed) -> Feed:
        """The first row of a batch that can be split; else the batch."""
        return _rows(feed, 0, 1) if self._count(feed) else feed

    def parts(self, feed: Feed, bytes_of: Callable[[Feed], int]) -> Iterator[Feed]:
        """The batch, or its parts in order. bytes_of: runs a feed to see what its values take."""
        rows = self._count(feed)
        fitting = rows if rows <= 1 else self._fitting(feed, bytes_of)
        if rows <= fitting:
            yield feed
            return
        self._once("split", f"batches are run in parts of {fitting} row(s), so that their values fit the memory budget")
        for start in range(0, rows, fitting):
            yield _rows(feed, start, start + fitting)

    def record(self, feed: Feed, taken: int) -> None:
        """Remember that the values of `feed` took so many bytes."""
        rows = self._count(feed)
        per_row = taken / max(rows, 1)
        self._per_row[_row_shapes(feed)] = per_row
        self._per_element = max(self._per_element, taken / max(sum(array.size for array in feed.values()), 1))
        if taken > self._limit and (rows <= 1 or per_row > self._limit):
            why = "one row alone is that large" if rows else "its inputs do not share a first axis of free size"
            self._once(
                "whole",
                f"a batch's values took {taken / MIB:.0f} MiB, the memory budget allows {self._limit / MIB:.0f}, "
                f"and it could not be split: {why}",
            )

    def _fitting(self, feed: Feed, bytes_of: Callable[[Feed], int]) -> int:
        """How many rows of this batch are run at a time."""
        row = _rows(feed, 0, 1)
        per_row = self._per_row.get(_row_shapes(feed), self._per_element * sum(array.size for array in row.values()))
        if not per_row:
            try:
                per_row = bytes_of(row)
            except ModelError:  # the batch's size is built into the model, though its inputs leave it free
                self._free = False
                return self._count(feed) or len(next(iter(feed.values())))
            self.record(row, int(per_row))
        return max(1, int(self._limit // max(per_row, 1)))

    def _count(self, feed: Feed) -> int:
        """The rows of a batch that can be split; 0 where it cannot."""
        counts = {array.shape[0] for array in feed.values()} if self._free else set()
        return counts.pop() if len(counts) == 1 else 0

    def _once(self, kind: str, message: str) -> None:
        if kind not in self._noted:
            self._noted.add(kind)
            self._note(message)


def _rows(feed: Feed, start: int, stop: int) -> Feed:
    return {name: array[start:stop] for name, array in feed.items()}


def _row_shapes(feed: Feed) -> _Shapes:
    return tuple(array.shape[1:] for array in feed.values())
