"""Running a model with inner values exposed, each taken the cheapest way that gives the right numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from calibrant.core import ModelError
from calibrant.engines.blocked import as_blocks, expose_blocked, find_block
from calibrant.engines.buffers import BufferedSession
from calibrant.engines.samples import Feed
from calibrant.engines.session import Runtime
from calibrant.engines.working import WorkingModel
from calibrant.sketches.together import Places

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """A value of one batch. array: read only, and until the thread's next run: its memory is used again.

    channels: None for a plain tensor; else `array` is blocked, [N, ceil(channels / B), H, W, B].
    """

    name: str
    array: NDArray[Any]
    channels: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How the values of a batch are counted: those of some places together, the others each by itself."""

    places: Places
    others: list[Taken]


class Batch:
    """The values of one run. comes_again: the same object stands for those of later runs, in the same memory.

    plan: how they are counted, found out once; of the one `Statistics` that counts them.
    """

    def __init__(self, taken: list[Taken], comes_again: bool = False) -> None:
        self.taken = taken
        self.comes_again = comes_again
        self.nbytes = sum(value.array.nbytes for value in taken)
        self.plan: Plan | None = None


class Taps(Protocol):
    """Runs the model on a feed and gives the values it was made for."""

    def run(self, feed: Feed) -> Batch: ...


class PlainTaps:
    """Values as the model's author knows them. weights: those that the session reads."""

    def __init__(self, session: Any, names: Sequence[str], weights: Mapping[str, NDArray[Any]]) -> None:
        self.session = session
        self._names = names
        self._weights = weights
        self._buffered = BufferedSession(session, names, self._batch)

    def run(self, feed: Feed) -> Batch:
        return self._buffered.run(feed)

    def _batch(self, arrays: list[NDArray[Any]], come_again: bool) -> Batch:
        return Batch([Taken(name, array) for name, array in zip(self._names, arrays, strict=True)], come_again)


class BlockedTaps:
    """Values in onnxruntime's blocked layout where it has them so.

    outputs: that are computed, in order, in the arrays of `buffered`. blocked: see `expose_blocked`.
    """

    def __init__(
        self,
        buffered: BufferedSession[Any],
        outputs: Sequence[str],
        names: Sequence[str],
        blocked: Mapping[str, tuple[str, int]],
        block: int,
    ) -> None:
        self._buffered = buffered.showing(self._batch)
        self._outputs = outputs
        self._names = names
        self._blocked = blocked
        self._block = block

    def run(self, feed: Feed) -> Batch:
        return self._buffered.run(feed)

    def _batch(self, values: list[NDArray[Any]], come_again: bool) -> Batch:
        arrays = dict(zip(self._outputs, values, strict=True))
        return Batch([self._taken(name, arrays) for name in self._names], come_again)

    def _taken(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> Taken:
        if name not in self._blocked:
            return Taken(name, arrays[name])
        output, channels = self._blocked[name]
        return Taken(name, as_blocks(arrays[output], self._block), channels)


class TapMaker:
    """Opens the session with `names` exposed, and finds out on a first feed whether values can be taken blocked.

    blockable: the names that may come blocked; onnxruntime is asked for them only if there are some.
    Raises ModelError where onnxruntime cannot run the model with these outputs.
    """

    def __init__(
        self, model: WorkingModel, runtime: Runtime, names: Sequence[str], blockable: Collection[str], folder: Path
    ) -> None:
        self._model = model
        self._runtime = runtime
        self._names = names
        self._blockable = blockable
        self._optimized = folder / "optimized.onnx" if blockable else None
        self._plain = self._plain_taps(1)

    @property
    def output_types(self) -> dict[str, str]:
        """The type of each exposed value, in onnxruntime's words: "tensor(float)"."""
        return {output.name: output.type for output in self._plain.session.get_outputs()}

    def choose(self, feed: Feed, threads_for: Callable[[Feed, int], int], note: Callable[[str], None]) -> Taps:
        """Blocked taps where they exist and give, on `feed`, exactly the plain values; else plain ones, noted.

        threads_for: told the feed and the bytes of its values, says on how many threads it is to be run.
        Raises ModelError where the model does not run on this feed.
        """
        with ThreadPoolExecutor(1) as pool:
            trial = pool.submit(self._try_blocked, feed, 1)  # beside the plain values, which take as long
            values = self._plain.run(feed)
        threads = threads_for(feed, values.nbytes)
        if threads > 1:  # what is computed may depend on that
            self._plain = self._plain_taps(threads)
            values = self._plain.run(feed)
        try:
            tried = trial.result() if threads == 1 else self._try_blocked(feed, threads)
        except ModelError as error:
            note(f"values are taken plain, which is slower: the model with blocked outputs does not run: {error}")
            return self._plain
        if tried is None:
            return self._plain
        block = self._agreed_block(tried, {taken.name: taken.array for taken in values.taken})
        if block is None:
            note("values are taken plain, which is slower: in the blocked layout they could not be verified")
            return self._plain
        log.info("%d of %d values are taken in blocks of %d channels", len(tried.blocked), len(self._names), block)
        return BlockedTaps(tried.buffered, list(tried.arrays), self._names, tried.blocked, block)

    def _plain_taps(self, threads: int) -> PlainTaps:
        source, weights = self._model.exposing(self._names)
        session = self._runtime.open(source, threads, save_to=self._optimized, weights=weights)
        return PlainTaps(session, self._names, weights)

    def _try_blocked(self, feed: Feed, threads: int) -> _Tried | None:
        """Run the model that onnxruntime has optimized with blocked outputs; None where it has no such values."""
        if self._optimized is None:
            return None
        model = onnx.load(self._optimized, load_external_data=False)
        blocked = expose_blocked(model, self._blockable)
        if not blocked:
            log.info("onnxruntime has no value in its blocked layout here; all are taken plain")
            return None
        changed = self._optimized.with_name("blocked.onnx")  # its weights are found beside it
        onnx.save(model, changed)
        session = self._runtime.open(changed, threads, optimize=False)
        names = [output.name for output in session.get_outputs()]
        buffered = BufferedSession(session, names, lambda values, _: dict(zip(names, values, strict=True)))
        return _Tried(buffered, blocked, buffered.run(feed))

    def _agreed_block(self, tried: _Tried, plain: Mapping[str, NDArray[Any]]) -> int | None:
        arrays = tried.arrays
        if not all(np.array_equal(arrays[name], plain[name], equal_nan=True) for name in plain if name in arrays):
            return None
        with ThreadPoolExecutor(self._runtime.threads) as pool:
            return find_block(
                plain,
                {name: arrays[output] for name, (output, _) in tried.blocked.items()},
                {name: channels for name, (_, channels) in tried.blocked.items()},
                pool,
            )


@dataclass(frozen=True, slots=True)
class _Tried:
    """A session with blocked outputs, which they are, and what it gave for a first feed."""

    buffered: BufferedSession[dict[str, NDArray[Any]]]
    blocked: Mapping[str, tuple[str, int]]
    arrays: Mapping[str, NDArray[Any]]
