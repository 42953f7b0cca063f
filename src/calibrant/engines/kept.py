"""The samples that are kept for whoever runs the model over them again."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from calibrant.engines.halves import WORD, content_of
from calibrant.engines.samples import Feed

MOST = 256  # samples
HALF = WORD >> 1  # without the bit that tells the half of a sample, so that some of either half are kept
BYTES = 1 << 28  # that the samples may take


class Kept:
    """Passes samples on, and keeps some to run again: always the same ones of the same samples.

    At most `most` of them, and BYTES. Those whose content is least, wherever in the order they come.
    prepare: what is made of those that were kept, before they are run again; `most` of it.
    """

    def __init__(
        self,
        samples: Iterable[Feed],
        most: int = MOST,
        prepare: Callable[[Iterable[Feed]], Iterable[Feed]] | None = None,
    ) -> None:
        self._samples = samples
        self._most = most
        self._prepare = prepare
        self._prepared: list[Feed] | None = None
        self._heap: list[tuple[int, int, Feed]] = []
        self._bytes = 0
        self._bound = WORD  # the least content that was dropped: what is beyond it would have been, too

    def __iter__(self) -> Iterator[Feed]:
        self._prepared = None
        for number, feed in enumerate(self._samples):
            self._consider(content_of(feed) % HALF, number, feed)
            yield feed

    @property
    def samples(self) -> list[Feed]:
        """What was kept, the least content first; as `prepare` makes it, if there is one."""
        if self._prepared is None:
            kept = [feed for _, _, feed in sorted(self._heap, key=lambda entry: -entry[0])]
            self._prepared = kept if self._prepare is None else list(islice(self._prepare(kept), self._most))
        return self._prepared

    def read(self, on_step: Callable[[int], None] | None = None) -> None:
        """Read all samples, for those that are kept. on_step: called with the number of them read."""
        for number, _ in enumerate(self, 1):
            if on_step is not None:
                on_step(number)

    def _consider(self, content: int, number: int, feed: Feed) -> None:
        if content >= self._bound:
            return
        heapq.heappush(self._heap, (-content, number, {name: array.copy() for name, array in feed.items()}))
        self._bytes += _size(feed)
        while len(self._heap) > self._most or (self._bytes > BYTES and len(self._heap) > 1):
            content, _, dropped = heapq.heappop(self._heap)
            self._bytes -= _size(dropped)
            self._bound = -content


def _size(feed: Feed) -> int:
    return sum(array.nbytes for array in feed.values())
