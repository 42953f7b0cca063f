"""OnnxruntimeExecutor: runs a graph with onnxruntime and takes statistics of its values on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from calibrant.core import SettingError
from calibrant.engines.executor import Executor, OnStep, RawCallback, check_names, not_floating
from calibrant.engines.masking import Masking
from calibrant.engines.pump import Pump
from calibrant.engines.samples import Feed
from calibrant.engines.session import Provider, Runtime, run
from calibrant.engines.splitting import Splitter
from calibrant.engines.statistics import Statistics
from calibrant.engines.taps import TapMaker
from calibrant.engines.working import WorkingModel, has_convolutions
from calibrant.graph import Graph
from calibrant.sketches import Halves, SketchSpec

OBSERVABLE = ("tensor(float)", "tensor(float16)", "tensor(double)")


class OnnxruntimeExecutor(Executor):
    """Runs the float model of `graph`.

    providers: onnxruntime's execution providers, by name ("cuda" will do) or (name, options); None: the CPU. One that
        cannot be had is an error, never replaced. threads: for the model and for the statistics alike; None: all.
    memory_budget: bytes that observed values may take, those of the two batches that are alive together. A larger
        batch is run in parts. blocked: whether values may be taken in onnxruntime's blocked layout, which is faster.

    Raises SettingError for a provider that is not known or not installed, and for numbers out of range.
    """

    def __init__(
        self,
        graph: Graph,
        providers: Sequence[Provider] | Provider | None = None,
        threads: int | None = None,
        memory_budget: int = 1 << 30,
        blocked: bool = True,
    ) -> None:
        if memory_budget < 1:
            raise SettingError(f"memory_budget is a number of bytes, at least 1, got {memory_budget}")
        super().__init__(graph)
        self._runtime = Runtime.of(providers, threads)
        self._memory_budget = memory_budget
        self._blocked = blocked
        self._forward: tuple[list[str], Any, Any] | None = None  # names, session, and the weights that it reads

    @property
    def threads(self) -> int:
        return self._runtime.threads

    @property
    def description(self) -> str:
        names = [p if isinstance(p, str) else p[0] for p in self._runtime.providers]
        return f"onnxruntime {ort.__version__} {','.join(names)}"

    def settings(self, threads: int) -> Callable[[Graph], OnnxruntimeExecutor]:
        return partial(
            OnnxruntimeExecutor,
            providers=self._runtime.providers,
            threads=threads,
            memory_budget=self._memory_budget,
            blocked=self._blocked,
        )

    def load_graph(self, graph: Graph) -> None:
        self.graph = graph
        self._forward = None

    def _compute(self, feed: Feed, names: Sequence[str]) -> list[NDArray[Any]]:
        if self._forward is None or self._forward[0] != list(names):
            with _folder() as folder:
                source, weights = WorkingModel(self.graph, Path(folder)).exposing(names)
                session = self._runtime.open(source, weights=weights)
            self._forward = list(names), session, weights
        return run(self._forward[1], names, feed)

    @contextmanager
    def collecting(
        self, wanted: Mapping[str, SketchSpec], raw: Mapping[str, RawCallback] | None = None
    ) -> Iterator[Collecting]:
        """`collect` for several blocks of samples, one after the other, with the model opened once.

        As many samples run side by side as there are threads and the memory budget allows, each on one thread together
        with its statistics: then not even onnxruntime's own arithmetic depends on the number of threads.
        """
        self.report = []
        raw = raw or {}
        names = list(dict.fromkeys([*wanted, *raw]))
        check_names(self.graph, names)
        splitter = Splitter(self._memory_budget, self.input_specs, self.note)
        with _folder() as folder:
            maker = self._tap_maker(wanted, raw, Path(folder))
            pump = Pump(maker, splitter, names, raw, self.threads, self._memory_budget, self._masking(names))
            del maker  # the pump drops it once the taps are chosen
            collect = Collecting(pump, wanted, self.note)
            del pump
            try:
                yield collect
            finally:
                collect.close()

    def _masking(self, names: Sequence[str]) -> Masking | None:
        """What counts of these values; None: all of them."""
        if self.graph.mask is None:
            return None
        apart = self.settings(self.threads)(self.graph)  # its session goes as soon as the axes are known
        return Masking(self.graph, self.graph.mask, names, apart.forward)

    def _tap_maker(
        self, wanted: Mapping[str, SketchSpec], raw: Mapping[str, RawCallback], folder: Path
    ) -> TapMaker | None:
        self._refuse_integer_inputs(wanted)
        names = [name for name in dict.fromkeys([*wanted, *raw]) if name not in self.graph.input_names]
        if not names:
            return None
        blockable: set[str] = set()
        plain = self.graph.mask is not None  # positions are picked out of plain values
        if self._blocked and not plain and self._runtime.on_cpu_only and has_convolutions(self.graph):
            blockable = {name for name in names if name not in raw and _may_be_blocked(wanted[name])}
        maker = TapMaker(WorkingModel(self.graph, folder), self._runtime, names, blockable, folder)
        for name, kind in maker.output_types.items():
            if name in wanted and kind not in OBSERVABLE:
                raise not_floating(name, kind)
        return maker


class Collecting:
    """A model that is open for collecting: see `OnnxruntimeExecutor.collecting`."""

    def __init__(self, pump: Pump, wanted: Mapping[str, SketchSpec], note: Callable[[str], None]) -> None:
        self._pump: Pump | None = pump
        self._wanted = wanted
        self._note = note

    def __call__(self, samples: Iterable[Feed], on_step: OnStep | None = None) -> Halves:
        """The sketches of these samples. on_step: as in `Executor.collect`, of these samples."""
        if self._pump is None:
            raise SettingError("the model is closed: collect inside of the `with` block")
        statistics = Statistics(self._wanted)
        self._pump.run(samples, statistics, on_step, self._note)
        return statistics.sketches(self._pump.threads)

    def close(self) -> None:
        """Let go of the session, which reads files of a folder that is about to go."""
        self._pump = None


def _may_be_blocked(spec: SketchSpec) -> bool:
    """Blocked values are images with their channels on axis 1; rows along an axis are not looked for in them."""
    return spec.channel_axis in (None, 1, -3) and spec.isotone_axis is None


def _folder() -> TemporaryDirectory[str]:
    """For what onnxruntime reads and writes; gone when left. (On Windows a mapped file may outlive it.)"""
    return TemporaryDirectory(prefix="calibrant-", ignore_cleanup_errors=True)
