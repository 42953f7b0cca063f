"""The loop's body: a sample in, its values to whoever asked for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from calibrant.core import ModelError
from calibrant.engines.samples import Feed
from calibrant.engines.splitting import Splitter
from calibrant.engines.statistics import Statistics, named
from calibrant.engines.taps import Taken, TapMaker, Taps

RawCallback = Callable[[NDArray[Any]], None]


class Pump:
    """Runs samples one by one, and hands each batch's values to the statistics and to the functions of `raw`.

    maker: of the taps for all values that are computed; None where only inputs are asked for. names: all of them.
    """

    def __init__(
        self,
        maker: TapMaker | None,
        splitter: Splitter,
        statistics: Statistics,
        names: Sequence[str],
        raw: Mapping[str, RawCallback],
        note: Callable[[str], None],
    ) -> None:
        self._maker = maker
        self._taps: Taps | None = None
        self._splitter = splitter
        self._statistics = statistics
        self._names = names
        self._raw = raw
        self._note = note

    def feed(self, number: int, feed: Feed) -> None:
        """Run sample `number`. On return its statistics are under way; `feed` may be overwritten."""
        try:
            if self._maker is not None:
                self._taps = self._choose(self._maker, feed)
                self._maker = None  # and with it the session that the chosen taps do not use, and its memory
            for part in self._splitter.parts(feed, self._bytes):
                self._pass_on(self._values(part))
        except ModelError as error:
            raise ModelError(f"sample {number}: {error}") from error

    def _choose(self, maker: TapMaker, feed: Feed) -> Taps:
        row = self._splitter.first_row(feed)
        try:
            return maker.choose(row, self._note)
        except ModelError:  # the batch's size is built into the model, though its inputs leave it free
            return maker.choose(feed, self._note)

    def _pass_on(self, batch: list[Taken]) -> None:
        self._statistics.wait()  # for the batch before, which ran while this one was computed
        self._statistics.start([taken for taken in batch if self._statistics.takes(taken.name)])
        for taken in batch:
            if taken.name in self._raw:
                try:
                    self._raw[taken.name](taken.array.copy())
                except Exception as error:
                    raise named(error, taken.name) from error

    def _values(self, feed: Feed) -> list[Taken]:
        batch = self._taps.run(feed) if self._taps is not None else []
        self._splitter.record(feed, sum(taken.array.nbytes for taken in batch))
        # Inputs are copied: whoever gave the sample may be about to overwrite it with the next one.
        return batch + [Taken(name, feed[name].copy()) for name in self._names if name in feed]

    def _bytes(self, feed: Feed) -> int:
        return sum(taken.array.nbytes for taken in self._taps.run(feed)) if self._taps is not None else 0
