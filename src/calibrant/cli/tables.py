"""A calibration table that a user named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from calibrant.core import (
    DataError,
    IncompatibleSketches,
    ObservationError,
    SettingError,
    TargetPlatform,
)
from calibrant.data.paths import missing
from calibrant.table import CalibrationTable


@dataclass(frozen=True)
class TableFile:
    """A table, and the file that it came from."""

    path: Path
    table: CalibrationTable

    @classmethod
    def open(cls, path: Path) -> TableFile:
        """Raises DataError where there is no file, with the nearest name, and where it is no table or damaged."""
        if not path.exists():
            raise DataError(missing(path, "the table"))
        return cls(path, CalibrationTable.load(path))

    @property
    def platform(self) -> TargetPlatform:
        """The platform that it was collected for. DataError where it names none."""
        try:
            return TargetPlatform.of(self.table.settings.get("platform", ""))
        except SettingError as error:
            raise DataError(f"{self.path} does not say for which platform it is: {error}; add --platform") from None

    @contextmanager
    def named(self) -> Iterator[None]:
        """What the block finds wrong with the table is said with the file's name."""
        try:
            yield
        except (IncompatibleSketches, ObservationError) as error:
            raise type(error)(f"{self.path}: {error}") from error
