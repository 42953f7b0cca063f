"""Batches whose values would not fit into memory, in parts that do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from calibrant.engines.samples import Feed, InputSpec

MIB = 1 << 20
_Shapes = tuple[tuple[int, ...], ...]


class Splitter:
    """Cuts batches along their first axis so that the values exposed for one part take at most `limit` bytes.

    Only where every input has a first axis that the model leaves free, of the same size in all of them.
    note: told once when batches are split, and once when one that is too large cannot be.
    """

    def __init__(self, limit: int, inputs: Sequence[InputSpec], note: Callable[[str], None]) -> None:
        self.limit = limit
        self._free = all(spec.shape and not isinstance(spec.shape[0], int) for spec in inputs)
        self._note = note
        self._noted: set[str] = set()
        self._per_row: dict[_Shapes, float] = {}  # bytes of one row, by the shapes of that row's inputs
        self._per_element = 0.0  # bytes for each element of the inputs, the most seen

    def first_row(self, feed: Feed) -> Feed:
        """The first row of a batch that can be split; else the batch."""
        return _rows(feed, 0, 1) if self._count(feed) else feed

    def keep_whole(self) -> None:
        """Split no batch from now on: the model takes its batches in one size alone."""
        self._free = False

    def parts(self, feed: Feed) -> Iterator[Feed]:
        """The batch, or its parts in order."""
        rows = self._count(feed)
        fitting = max(1, int(self.limit // max(self._bytes_per_row(feed), 1)))
        if rows <= fitting:
            yield feed
            return
        self._once("split", f"batches are run in parts of {fitting} row(s), so that their values fit the memory budget")
        for start in range(0, rows, fitting):
            yield _rows(feed, start, start + fitting)

    def bytes_of(self, feed: Feed) -> int:
        """What its values will take, by what those before took."""
        return int(self._bytes_per_row(feed) * max(self._count(feed), 1))

    def record(self, feed: Feed, taken: int) -> None:
        """Remember that the values of `feed` took so many bytes."""
        rows = self._count(feed)
        per_row = taken / max(rows, 1)
        self._per_row[self._shapes(feed)] = per_row
        self._per_element = max(self._per_element, taken / max(sum(array.size for array in feed.values()), 1))
        if taken > self.limit and (rows <= 1 or per_row > self.limit):
            why = "one row alone is that large" if rows else "its inputs do not share a first axis of free size"
            self._once(
                "whole",
                f"a batch's values took {taken / MIB:.0f} MiB, the memory budget allows {self.limit / MIB:.0f}, "
                f"and it could not be split: {why}",
            )

    def _bytes_per_row(self, feed: Feed) -> float:
        """Of a batch that cannot be split, of all of it."""
        elements = sum(array.size for array in feed.values()) / max(self._count(feed), 1)
        return self._per_row.get(self._shapes(feed), self._per_element * elements)

    def _shapes(self, feed: Feed) -> _Shapes:
        """Of one row; of a batch that cannot be split, its own."""
        rows = self._count(feed)
        return tuple(array.shape[1:] if rows else array.shape for array in feed.values())

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
