"""Executor: what every engine is, to those who use one."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import ModelError, ObservationError, SettingError, closest
from calibrant.engines.samples import Feed, InputSpec, iterate_samples
from calibrant.graph import Graph
from calibrant.sketches import Halves, SketchSpec

log = logging.getLogger(__name__)

OnStep = Callable[[int], None]
RawCallback = Callable[[NDArray[Any]], None]
OBSERVABLE = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


class Collect(Protocol):
    """A model that is open for collecting: see `Executor.collecting`."""

    def __call__(self, samples: Iterable[Feed], on_step: OnStep | None = None) -> Halves:
        """The sketches of these samples. on_step: called with the number done, of these samples."""


class Executor(ABC):
    """Runs the float model of `graph`, and takes statistics of its values on the way.

    report: what the last `collect` had to do otherwise than asked, a sentence each; also in the log.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.report: list[str] = []

    @property
    def input_specs(self) -> list[InputSpec]:
        """What the model's inputs take, in order."""
        return input_specs(self.graph)

    @property
    @abstractmethod
    def threads(self) -> int:
        """How many threads the model and the statistics use, each."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Engine, version and what computes; for the record."""

    @abstractmethod
    def settings(self, threads: int) -> Callable[[Graph], Executor]:
        """What makes an executor like this one, of so many threads, for another graph. It can be pickled."""

    @abstractmethod
    def load_graph(self, graph: Graph) -> None:
        """Run this graph from now on. Also to be called when `forward` shall see changed weights."""

    def forward(self, inputs: Any, output_names: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Float inference: the values `output_names` for one sample, which may be any that the calibration takes.

        output_names: any values of the main graph; None: the model's outputs, in order.
        Raises DataError for a sample that does not fit, SettingError for an unknown value, ModelError where the
        engine fails.
        """
        names = list(self.graph.output_names if output_names is None else output_names)
        check_names(self.graph, names)
        feed = next(iterate_samples([inputs], self.input_specs))
        computed = [name for name in dict.fromkeys(names) if name not in feed]
        values = dict(zip(computed, self._compute(feed, computed), strict=True)) if computed else {}
        return [feed[name].copy() if name in feed else values[name] for name in names]

    @abstractmethod
    def _compute(self, feed: Feed, names: Sequence[str]) -> list[NDArray[Any]]:
        """The values `names`, none of them an input, of a checked sample."""

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
        Where the graph names a mask, what is counted, and given to `raw`, is what each sample of a batch has at the
        positions that count: see `calibrant.engines.masking`.
        on_step: called with the number of samples done.

        NaN and Inf are counted by the sketch, no error here. Raises SettingError for an unknown value,
        ObservationError for one that is not floating, ModelError where the engine fails; what a collector or a
        function of `raw` raises comes out with the value's name.
        """
        with self.collecting(wanted, raw) as collect:
            return collect(samples, on_step)

    @abstractmethod
    def collecting(
        self, wanted: Mapping[str, SketchSpec], raw: Mapping[str, RawCallback] | None = None
    ) -> AbstractContextManager[Collect]:
        """`collect` for several blocks of samples, one after the other, with the model opened once."""

    def note(self, message: str) -> None:
        """Add a sentence to the report, and to the log."""
        self.report.append(message)
        log.warning("%s", message)

    def _refuse_integer_inputs(self, wanted: Iterable[str]) -> None:
        """Raise ObservationError for an input among `wanted` that is not floating."""
        dtypes = {spec.name: spec.dtype for spec in self.input_specs}
        for name in wanted:
            if name in dtypes and dtypes[name] not in OBSERVABLE:
                raise not_floating(name, dtypes[name])


def not_floating(name: str, kind: object) -> ObservationError:
    """The error for a value of that kind, which cannot be observed."""
    return ObservationError(f"value '{name}' is {kind}: only floating values can be observed")


def check_names(graph: Graph, names: Iterable[str]) -> None:
    """Raises SettingError for a name that is no value of the main graph, with the nearest one that is."""
    known = {value.name for value in graph.values() if value.name}
    for name in names:
        if name not in known:
            near = closest(name, known)
            hint = f"did you mean '{near}'?" if near else "(values inside of subgraphs cannot be taken)"
            raise SettingError(f"the model has no value '{name}'; {hint}")


def input_specs(graph: Graph) -> list[InputSpec]:
    """What the model's inputs take. Raises ModelError for an input that is no tensor of a dtype that numpy has."""
    specs = []
    for name in graph.input_names:
        dtype = graph.dtype_of(name)
        if dtype is None or not isinstance(graph.value(name).type, ir.TensorType):
            raise ModelError(f"input '{name}' is {graph.value(name).type}: only tensors can be fed")
        shape = graph.shape_of(name)
        # Some exporters write a free dimension as -1.
        free = None if shape is None else tuple(None if isinstance(d, int) and d < 0 else d for d in shape)
        specs.append(InputSpec(name, dtype.numpy(), free))
    return specs
