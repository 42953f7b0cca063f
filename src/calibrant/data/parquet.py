"""Parquet files as samples: a row per sample, a column per input. Needs the extra `calibrant[parquet]`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calibrant.core import DataError, SettingError
from calibrant.data.arrays import whole
from calibrant.data.inputs import Array, ModelInput, Sample, names, static
from calibrant.data.paths import count

SUFFIXES = frozenset((".parquet",))


class _Group(NamedTuple):
    """A row group: its file, its number and its first row there, and the number of its last row + 1 among all."""

    path: Path
    number: int
    first: int
    end: int


class Parquet:
    """The rows of some files, in order. Index it to read one: a row group is read at a time, and kept for its others.

    A cell is a number, a list, a list of lists, or a tensor (as Ray or Arrow write them); a flat list takes the shape
    of its input. Columns that are no input are not read.
    Raises DataError for files that are no Parquet or lack a column, SettingError where pyarrow is not installed.
    """

    def __init__(self, paths: Sequence[Path], inputs: Sequence[ModelInput]) -> None:
        self.inputs = inputs
        self.groups: list[_Group] = []
        for path in paths:
            file, first = _open(path), 0
            for number in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                self.groups.append(_Group(path, number, first, len(self) + rows))
                first += rows
        found = _open(paths[0]).schema_arrow.names
        self.columns = found if len(found) == len(inputs) == 1 else [name for name in found if name in _wanted(inputs)]
        self.notes = [f"a row per sample, in {count(len(paths), 'Parquet file')}"]
        self._kept: tuple[_Group, Any] | None = None

    def __len__(self) -> int:
        return self.groups[-1].end if self.groups else 0

    def __getitem__(self, index: int) -> Sample:
        group, row = self._place(index)
        kept = self._kept  # looked at once: several threads read
        if kept is None or kept[0] != group:
            kept = group, _open(group.path).read_row_group(group.number, self.columns)
            self._kept = kept
        cells = {name: kept[1].column(name)[row] for name in self.columns}
        return row_sample({name: _value(cell) for name, cell in cells.items()}, self.inputs, self.name_of(index))

    def name_of(self, index: int) -> str:
        group, row = self._place(index)
        return f"row {group.first + row} of '{group.path}'"

    def _place(self, index: int) -> tuple[_Group, int]:
        number = int(np.searchsorted([group.end for group in self.groups], index, side="right"))
        return self.groups[number], index - (self.groups[number - 1].end if number else 0)


def row_sample(cells: Mapping[str, Any], inputs: Sequence[ModelInput], where: str) -> Sample:
    """The row of a table as a sample. A single column fills a single input, whatever its name; others are left out.

    Raises DataError, saying where, for a column that is missing and a cell that does not fit its input.
    """
    if len(inputs) == len(cells) == 1:
        cells = {inputs[0].name: next(iter(cells.values()))}
    for target in inputs:
        if target.name not in cells:
            raise DataError(
                f"{where} has no column '{target.name}' (its columns: {', '.join(cells) or 'none'}; "
                f"the model takes {names(inputs)})"
            )
    return {i.name: whole(_array(cells[i.name], i, where), i, where) for i in inputs}


def _array(value: Any, target: ModelInput, where: str) -> Array:
    """As an array of the input's element type and rank."""
    try:
        array = np.asarray(value)
        if array.dtype == object and target.dtype != object:  # arrays of arrays
            array = np.array([np.asarray(part).tolist() for part in array])
        if array.ndim == 1 and target.shape is not None and len(target.shape) > 2:
            array = array.reshape([static(d) or -1 for d in target.shape])
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}, input '{target.name}': it does not fit {target}: {error}") from None
    if array.dtype.kind in "iu" and target.dtype.kind in "iu":  # Parquet and Python know fewer widths than models
        fitting = array.astype(target.dtype)
        array = fitting if np.array_equal(fitting, array) else array
    return array


def _value(cell: Any) -> Any:
    return cell.to_numpy() if hasattr(cell, "to_numpy") else cell.as_py()


def _wanted(inputs: Sequence[ModelInput]) -> set[str]:
    return {target.name for target in inputs}


def _open(path: Path) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise SettingError("reading Parquet needs pyarrow: pip install 'calibrant[parquet]'") from None
    try:
        return parquet.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"'{path}' cannot be read as Parquet: {error}") from error
