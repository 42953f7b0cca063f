"""Result: what a block of samples gave; two of them merge."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.table import CalibrationTable

COLUMN = "result"
Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Result:
    """The table of some samples. skipped: names of those that could not be read; notes: what the engine reported."""

    table: CalibrationTable
    skipped: tuple[str, ...] = ()
    notes: frozenset[str] = frozenset()

    def merge(self, other: Result) -> Result:
        """The result of the samples of both, whatever their order."""
        return Result(self.table.merge(other.table), self.skipped + other.skipped, self.notes | other.notes)

    def rows(self) -> Rows:
        """As one row of a Ray dataset."""
        return {COLUMN: np.array([self.packed()], object)}

    def packed(self) -> bytes:
        """As bytes, with the table as its file has it."""
        return pickle.dumps((self.table.parts(), self.skipped, self.notes), protocol=5)

    @classmethod
    def of(cls, packed: bytes) -> Result:
        """The result that was packed."""
        parts, skipped, notes = pickle.loads(packed)
        return cls(CalibrationTable.of_parts("a result", *parts), skipped, notes)


def merge_rows(rows: Rows) -> Rows:
    """A row with the merged result of several, of which one at a time is unpacked."""
    first, *others = rows[COLUMN]
    result = Result.of(first)
    for packed in others:
        result = result.merge(Result.of(packed))
    return result.rows()
