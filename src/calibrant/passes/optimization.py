"""What the passes have in common that run the model again, and how they are run and interrupted."""

from __future__ import annotations

import logging
import signal
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from calibrant.core import DataError, in_prose
from calibrant.engines.samples import iterate_samples
from calibrant.engines.unpadding import unpadded
from calibrant.passes.base import QuantizationPass
from calibrant.passes.guard import Guard

if TYPE_CHECKING:
    from calibrant.engines import Executor
    from calibrant.engines.samples import Feed
    from calibrant.graph import Graph

log = logging.getLogger(__name__)

OnLayer = Callable[[str, int, int], bool | None]
"""Called with the name of the pass, how many of its layers are done, and how many it has; False: stop there."""


HOLD_OUT = 4  # every so manieth sample is for the check


class OptimizationPass(QuantizationPass):
    """A pass that improves a calibrated graph layer by layer, measured on samples.

    What would make a layer worse is dropped, so that the graph is never worse than before by the pass's own measure.
    At the end the outputs of the quantized model are looked at on samples that the pass did not choose by: where they
    are further off than before, all that it did is taken back, and the graph's report says so. Who stops it keeps what
    is done.
    """

    def held_out(self, samples: Sequence[Feed]) -> Sequence[Feed]:
        """Of these samples, those that the pass does not choose by; all, where they are too few to be held out."""
        return [feed for number, feed in enumerate(samples) if is_held(number, len(samples))] or samples

    @abstractmethod
    def layers(self, graph: Graph, samples: Sequence[Feed], executor: Executor) -> Iterator[tuple[int, int]]:
        """Improve one layer (or block) after another; after each, how many are done, and of how many.

        Whenever it yields, the graph is whole: who stops there keeps what is done.
        executor: runs the float model, as it was before any pass.
        """

    def optimize(
        self,
        graph: Graph,
        dataloader: Iterable[Any] | None = None,
        executor: Executor | None = None,
        collate_fn: Callable[[Any], Any] | None = None,
        on_layer: OnLayer | None = None,
        **_: Any,
    ) -> None:
        if dataloader is None or executor is None:
            raise DataError(f"{self.name} needs samples and an executor: optimize(graph, dataloader, executor)")
        samples = list(unpadded(iterate_samples(dataloader, executor.input_specs, None, collate_fn), executor))
        before = Guard(graph, self.held_out(samples), executor)
        for done, total in self.layers(graph, samples, executor):
            if on_layer is not None and on_layer(self.name, done, total) is False:
                return
        if before.restore_if_worse():
            graph.note(f"{in_prose(self.name)} made the outputs worse on held-out samples: all is as it was before")


def is_held(number: int, count: int) -> bool:
    """Whether that one of so many samples is held out: every fourth, of less than four none."""
    return count >= HOLD_OUT and number % HOLD_OUT == HOLD_OUT - 1


class StopsBetweenLayers:
    """The `on_layer` to give to a pass so that Ctrl-C stops it between two layers and keeps what is done.

    After the first Ctrl-C the layer in work is finished; a second one interrupts at once. Signals reach the main thread
    alone: in others this changes nothing.
    """

    def __init__(self, on_layer: OnLayer | None = None) -> None:
        self._on_layer = on_layer
        self._asked = threading.Event()
        self.stopped = False

    def __call__(self, name: str, done: int, total: int) -> bool:
        """Whether to go on."""
        told = self._on_layer is not None and self._on_layer(name, done, total) is False
        self.stopped = (told or self._asked.is_set()) and done < total
        return not self.stopped

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _heard(self, *_: object) -> None:
        text = "interrupted: the layer in work is finished, and what is done is kept; Ctrl-C again gives up"
        log.warning(text, extra={"at_once": True})
        self._asked.set()
        signal.signal(signal.SIGINT, self._before)
