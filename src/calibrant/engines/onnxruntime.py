"""OnnxruntimeExecutor: runs a graph with onnxruntime and takes statistics of its values on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from calibrant.core import ObservationError, SettingError
from calibrant.engines.pump import Pump, RawCallback
from calibrant.engines.samples import Feed, InputSpec, iterate_samples
from calibrant.engines.session import Provider, Runtime, run
from calibrant.engines.splitting import Splitter
from calibrant.engines.statistics import Statistics
from calibrant.engines.taps import TapMaker
from calibrant.engines.working import WorkingModel, check_names, has_convolutions, input_specs
from calibrant.graph import Graph
from calibrant.sketches import Halves, SketchSpec

log = logging.getLogger(__name__)

OnStep = Callable[[int], None]
OBSERVABLE = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
}


class OnnxruntimeExecutor:
    """Runs the float model of `graph`.

    providers: onnxruntime's execution providers, by name ("cuda" will do) or (name, options); None: the CPU. One that
        cannot be had is an error, never replaced. threads: for the model and for the statistics alike; None: all.
    memory_budget: bytes that observed values may take, those of the two batches that are alive together. A larger
        batch is run in parts. blocked: whether values may be taken in onnxruntime's blocked layout, which is faster.

    report: what the last `collect` had to do otherwise than asked, a sentence each; also in the log.
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
        self.graph = graph
        self.report: list[str] = []
        self._runtime = Runtime.of(providers, threads)
        self._memory_budget = memory_budget
        self._blocked = blocked
        self._forward: tuple[list[str], Any] | None = None

    @property
    def input_specs(self) -> list[InputSpec]:
        """What the model's inputs take, in order."""
        return input_specs(self.graph)

    @property
    def threads(self) -> int:
        """How many threads the model and the statistics use, each."""
        return self._runtime.threads

    @property
    def description(self) -> str:
        """Engine, version and what computes; for the record."""
        names = [p if isinstance(p, str) else p[0] for p in self._runtime.providers]
        return f"onnxruntime {ort.__version__} {','.join(names)}"

    def settings(self, threads: int) -> Callable[[Graph], OnnxruntimeExecutor]:
        """What makes an executor like this one, of so many threads, for another graph. It can be pickled."""
        return partial(
            OnnxruntimeExecutor,
            providers=self._runtime.providers,
            threads=threads,
            memory_budget=self._memory_budget,
            blocked=self._blocked,
        )

    def load_graph(self, graph: Graph) -> None:
        """Run this graph from now on. Also to be called when `forward` shall see changed weights."""
        self.graph = graph
        self._forward = None

    def forward(self, inputs: Any, output_names: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Float inference: the values `output_names` for one sample, which may be any that the calibration takes.

        output_names: any values of the main graph; None: the model's outputs, in order.
        Raises DataError for a sample that does not fit, SettingError for an unknown value, ModelError where
        onnxruntime fails.
        """
        names = list(self.graph.output_names if output_names is None else output_names)
        check_names(self.graph, names)
        feed = next(iterate_samples([inputs], self.input_specs))
        computed = [name for name in dict.fromkeys(names) if name not in feed]
        if self._forward is None or self._forward[0] != computed:
            with _folder() as folder:
                self._forward = computed, self._runtime.open(WorkingModel(self.graph, Path(folder)).exposing(computed))
        values = dict(zip(computed, run(self._forward[1], computed, feed), strict=True)) if computed else {}
        return [feed[name].copy() if name in feed else values[name] for name in names]

    def collect(
        self,
        samples: Iterable[Feed],
        wanted: Mapping[str, SketchSpec],
        raw: Mapping[str, RawCallback] | None = None,
        on_step: OnStep | None = None,
    ) -> Halves:
        """Run every sample once; the sketch of each wanted value.

        samples: checked ones, see `iterate_samples`. wanted: names of floating values of the main graph (inputs and
        outputs among them) and what to remember of each.
        raw: functions that are given each batch of a value, as a copy of their own, in the calling thread, in order.
        on_step: called with the number of samples done.

        As many samples run side by side as there are threads and the memory budget allows, each on one thread together
        with its statistics: then not even onnxruntime's own arithmetic depends on the number of threads.
        NaN and Inf are counted by the sketch, no error here. Raises SettingError for an unknown value,
        ObservationError for one that is not floating, ModelError where onnxruntime fails; what a collector or a
        function of `raw` raises comes out with the value's name.
        """
        with self.collecting(wanted, raw) as collect:
            return collect(samples, on_step)

    @contextmanager
    def collecting(
        self, wanted: Mapping[str, SketchSpec], raw: Mapping[str, RawCallback] | None = None
    ) -> Iterator[Collecting]:
        """`collect` for several blocks of samples, one after the other, with the model opened once."""
        self.report = []
        raw = raw or {}
        names = list(dict.fromkeys([*wanted, *raw]))
        check_names(self.graph, names)
        splitter = Splitter(self._memory_budget, self.input_specs, self.note)
        with _folder() as folder:
            maker = self._tap_maker(wanted, raw, Path(folder))
            pump = Pump(maker, splitter, names, raw, self.threads, self._memory_budget)
            del maker  # the pump drops it once the taps are chosen

            collect = Collecting(pump, wanted, self.note)
            del pump
            try:
                yield collect
            finally:
                collect.close()

    def _tap_maker(
        self, wanted: Mapping[str, SketchSpec], raw: Mapping[str, RawCallback], folder: Path
    ) -> TapMaker | None:
        inputs = {spec.name: spec for spec in self.input_specs}
        for name in wanted:
            if name in inputs and inputs[name].dtype not in OBSERVABLE.values():
                raise ObservationError(f"value '{name}' is {inputs[name].dtype}: only floating values can be observed")
        names = [name for name in dict.fromkeys([*wanted, *raw]) if name not in inputs]
        if not names:
            return None
        blockable: set[str] = set()
        if self._blocked and self._runtime.on_cpu_only and has_convolutions(self.graph):
            blockable = {name for name in names if name not in raw and _may_be_blocked(wanted[name])}
        maker = TapMaker(WorkingModel(self.graph, folder), self._runtime, names, blockable, folder)
        for name, kind in maker.output_types.items():
            if name in wanted and kind not in OBSERVABLE:
                raise ObservationError(f"value '{name}' is {kind}: only floating values can be observed")
        return maker

    def note(self, message: str) -> None:
        """Add a sentence to the report, and to the log."""
        self.report.append(message)
        log.warning("%s", message)


class Collecting:
    """A model that is open for collecting: see `OnnxruntimeExecutor.collecting`."""

    def __init__(self, pump: Pump, wanted: Mapping[str, SketchSpec], note: Callable[[str], None]) -> None:
        self._pump: Pump | None = pump
        self._wanted = wanted
        self._note = note

    def __call__(self, samples: Iterable[Feed], on_step: OnStep | None = None) -> Halves:
        """The sketches of these samples. on_step: as in `OnnxruntimeExecutor.collect`, of these samples."""
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
