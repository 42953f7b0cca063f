"""What quantization does to each operation, value and weight of a model: one pass over samples, both models at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.analysis.grid_use import GridUse
from calibrant.analysis.measures import Difference
from calibrant.analysis.operation_run import OperationRun
from calibrant.analysis.operations import Operation, operations_of, quantized_inputs
from calibrant.analysis.pieces import Pieces
from calibrant.analysis.simulation import Simulation
from calibrant.core import TensorQuantizationConfig
from calibrant.engines import Executor, OnnxruntimeExecutor, iterate_samples
from calibrant.engines.samples import Feed
from calibrant.engines.unpadding import unpadded
from calibrant.graph import Graph
from calibrant.graph.axes import channel_axis
from calibrant.graph.graph import original
from calibrant.graph.roles import is_bound
from calibrant.passes.base import parameter_of

Values = Mapping[str, NDArray[Any]]


@dataclass
class OperationError:
    """What quantization does to one operation, named by its operator.

    accumulated: its output in the quantized model, where all before it is quantized as well.
    alone: its output when it alone is quantized: its inputs, its parameters and what it makes; what it reads is exact.
    at_outputs: the model's floating outputs, by name, when it alone is quantized; empty unless that was asked for.
    """

    name: str
    op_type: str
    accumulated: Difference = field(default_factory=Difference)
    alone: Difference = field(default_factory=Difference)
    at_outputs: dict[str, Difference] = field(default_factory=dict)


@dataclass
class TensorError:
    """What its grid does to one value of the float model, or to one weight.

    reader: of a weight, the operation that reads it. difference: of the tensor as its integers give it back.
    use: how it sits on them.
    """

    name: str
    config: TensorQuantizationConfig
    use: GridUse
    difference: Difference = field(default_factory=Difference)
    reader: str | None = None

    def add(self, exact: NDArray[Any], stored: NDArray[Any] | None = None) -> NDArray[Any]:
        """Take in one array of it; returns it as its integers give it back. stored: see `GridUse.add`."""
        found = self.use.add(exact, stored)
        self.difference.add(exact, found)
        return found


@dataclass
class Analysis:
    """What quantization does, everywhere. samples: measured on. outputs: the model's floating ones, by name.

    operations, values, weights: in the order of the model.
    """

    samples: int = 0
    outputs: dict[str, Difference] = field(default_factory=dict)
    operations: list[OperationError] = field(default_factory=list)
    values: list[TensorError] = field(default_factory=list)
    weights: list[TensorError] = field(default_factory=list)

    @property
    def sqnr_db(self) -> float:
        """Of the outputs, the mean in dB; inf for a model without floating ones."""
        found = [difference.sqnr_db for difference in self.outputs.values()]
        return float(np.mean(found)) if found else float("inf")

    def worst(self, most: int | None = None) -> list[OperationError]:
        """The operations that lose most by themselves: at the model's outputs if that was measured, else at their own.

        Those of equal loss in the order of the model.
        """
        return sorted(self.operations, key=lambda one: -loss(one))[:most]


def loss(error: OperationError) -> float:
    """Noise over signal of an operation that alone is quantized: the mean over the model's outputs, or its own output.

    What is broken (NaN and Inf) is infinite.
    """
    measured = list(error.at_outputs.values()) or [error.alone]
    found = float(np.mean([difference.relative for difference in measured]))
    return float("inf") if np.isnan(found) else found


def analyse(
    graph: Graph,
    samples: Iterable[Any],
    *,
    executor: Executor | None = None,
    steps: int | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
    at_outputs: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> Analysis:
    """Measure a quantized graph against its float model, sample by sample.

    graph: as `quantize` returns it. samples: any loader, read once, of which both models see the same: shuffling does
        no harm. Where the graph names a mask, each is measured on without its padding. steps: at most so many.
    executor: runs the float model; None: onnxruntime.
    at_outputs: also what each operation alone does to the outputs of the model, which runs, for each, what depends on
        it: the time of half the operations as many float runs.
    on_step: called with the number of samples done.

    Memory does not grow with the samples. The same samples in the same order give the same numbers.
    Raises StateError for a graph that is not quantized and calibrated, DataError for samples that do not fit.
    """
    executor = executor or OnnxruntimeExecutor(graph)
    measuring = _Measuring(graph, executor, at_outputs)
    feeds = iterate_samples(samples, executor.input_specs, steps, collate_fn)
    for feed in islice(unpadded(feeds, executor), steps):
        measuring.add(feed)
        if on_step is not None:
            on_step(measuring.found.samples)
    return measuring.found


class _Measuring:
    """Both models, opened, and what was found so far."""

    def __init__(self, graph: Graph, executor: Executor, at_outputs: bool) -> None:
        self._executor = executor
        self._operations = operations_of(graph)
        self._runs = [OperationRun(graph, operation) for operation in self._operations]
        self._pieces = Pieces(graph, self._operations) if at_outputs else None
        outputs = graph.floating_outputs
        of_outputs = outputs if at_outputs else []
        self.found = Analysis(
            outputs={name: Difference() for name in outputs},
            operations=[
                OperationError(one.name, one.op_type, at_outputs={name: Difference() for name in of_outputs})
                for one in self._operations
            ],
            values=_values(graph),
            weights=_weights(graph, self._operations),
        )
        self._exposed = _unique([*outputs, *(v.name or "" for one in self._operations for v in one.outputs)])
        read = [name for run in self._runs for name in run.inputs]
        boundaries = self._pieces.boundaries if self._pieces is not None else []
        values = [value.name for value in self.found.values]
        self._wanted = _unique([*self._exposed, *read, *values, *boundaries])
        self._simulation = Simulation(graph, executor.threads, self._exposed)

    def add(self, feed: Feed) -> None:
        """Run both models on one sample. Each sum belongs to one task, so that threads do not change its order."""
        exact = dict(zip(self._wanted, self._executor.forward(feed, self._wanted), strict=True))
        simulated = dict(zip(self._exposed, self._simulation.run(feed), strict=True))
        for name, difference in self.found.outputs.items():
            difference.add(exact[name], simulated[name])
        with ThreadPoolExecutor(self._executor.threads, thread_name_prefix="calibrant-analysis") as pool:
            rounded = dict(pool.map(lambda value: (value.name, value.add(exact[value.name])), self.found.values))
            list(pool.map(lambda number: self._add(number, exact, simulated, rounded), range(len(self._operations))))
        self.found.samples += 1

    def _add(self, number: int, exact: Values, simulated: Values, rounded: Values) -> None:
        error = self.found.operations[number]
        changed = self._runs[number].alone(exact, rounded)
        for name, one in changed.items():
            error.accumulated.add(exact[name], simulated[name])
            error.alone.add(exact[name], one.read)
        if self._pieces is not None:
            carried = dict(zip(self._pieces.outputs, self._pieces.carry(changed, exact), strict=True))
            for name, difference in error.at_outputs.items():
                difference.add(exact[name], carried[name])


def _values(graph: Graph) -> list[TensorError]:
    """Every activation that is quantized, once for each scale that it is put on."""
    found = []
    for group in graph.groups:
        for name in group.roots:
            axis = channel_axis(graph.value(name))
            found.append(TensorError(name, group.config, GridUse(group.config, axis)))
    return found


def _weights(graph: Graph, operations: Sequence[Operation]) -> list[TensorError]:
    """Every parameter that is quantized, measured at once; biases, which are all but exact, are not among them."""
    found: dict[tuple[str, int], TensorError] = {}
    for operation in operations:
        node = operation.nodes[0]
        for index, config in quantized_inputs(graph, operation).items():
            stored, value = parameter_of(node, index), node.inputs[index]
            name = str(value.name) if value is not None else ""
            if stored is None or config.is_bias or is_bound(node, index) or (name, id(config)) in found:
                continue
            error = TensorError(name, config, GridUse(config, config.channel_axis), reader=operation.name)
            floats = original(value)  # type: ignore[arg-type]
            error.add(np.asarray(floats.numpy()), stored)  # type: ignore[union-attr]
            found[name, id(config)] = error
    return list(found.values())


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
