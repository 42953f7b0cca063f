"""The samples that whole models are measured on."""

from __future__ import annotations

from itertools import accumulate

from calibrant.engines.samples import Feed
from calibrant.table.table import CalibrationTable

FEWEST = 32  # samples that models are compared on if there are so many, however large the model is
NUMBERS = 1 << 29  # that are observed while a model runs over more than that


def affordable(samples: list[Feed], table: CalibrationTable, fewest: int = FEWEST) -> list[Feed]:
    """The first of the samples: as many as the table's model makes NUMBERS of, but `fewest` at least."""
    observed = sum(sketch.extremes.size for sketch in table.sketches.values()) / max(1, table.samples)
    together = accumulate(_rows(feed) * observed for feed in samples)
    return samples[: max(fewest, sum(numbers <= NUMBERS for numbers in together))]


def _rows(feed: Feed) -> int:
    first = next(iter(feed.values()))
    return first.shape[0] if first.ndim else 1
