"""The samples that `auto` measures on."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import accumulate

from calibrant.engines.halves import WORD, content_of
from calibrant.engines.samples import Feed
from calibrant.table import CalibrationTable

MOST = 256  # samples on which models are compared
FEWEST = 32  # if there are so many, however large the model is
HALF = WORD >> 1  # without the bit that tells the half of a sample, so that some of either half are kept
NUMBERS = 1 << 29  # that are observed while a model runs over more than that
BYTES = 1 << 28  # that the samples may take


class Kept:
    """Passes samples on, and keeps some to measure with: always the same ones of the same samples.

    At most MOST of them, and BYTES. Those whose content is least, wherever in the order they come.
    """

    def __init__(self, samples: Iterable[Feed]) -> None:
        self._samples = samples
        self._heap: list[tuple[int, int, Feed]] = []
        self._bytes = 0

    def __iter__(self) -> Iterator[Feed]:
        for number, feed in enumerate(self._samples):
            self._consider(content_of(feed) % HALF, number, feed)
            yield feed

    @property
    def samples(self) -> list[Feed]:
        """What was kept, the least content first."""
        return [feed for _, _, feed in sorted(self._heap, key=lambda entry: -entry[0])]

    def _consider(self, content: int, number: int, feed: Feed) -> None:
        if len(self._heap) == MOST and content >= -self._heap[0][0]:
            return
        heapq.heappush(self._heap, (-content, number, {name: array.copy() for name, array in feed.items()}))
        self._bytes += _size(feed)
        while len(self._heap) > MOST or (self._bytes > BYTES and len(self._heap) > 1):
            self._bytes -= _size(heapq.heappop(self._heap)[2])


def affordable(samples: list[Feed], table: CalibrationTable) -> list[Feed]:
    """The first of the samples: as many as the table's model makes NUMBERS of, but FEWEST at least."""
    observed = sum(sketch.extremes.size for sketch in table.sketches.values()) / max(1, table.samples)
    together = accumulate(_rows(feed) * observed for feed in samples)
    return samples[: max(FEWEST, sum(numbers <= NUMBERS for numbers in together))]


def _rows(feed: Feed) -> int:
    first = next(iter(feed.values()))
    return first.shape[0] if first.ndim else 1


def _size(feed: Feed) -> int:
    return sum(array.nbytes for array in feed.values())
