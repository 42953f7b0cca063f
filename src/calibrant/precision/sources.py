"""Where the noise of a quantized model comes from: each rounded value and each rounded weight, measured by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrant.analysis.operation_run import OperationRun, rounded_by
from calibrant.analysis.operations import operations_of
from calibrant.analysis.pieces import Changed, Pieces
from calibrant.analysis.probabilities import are_probabilities, logarithms
from calibrant.engines import Executor
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.quantizers.plan import Plan
from calibrant.quantizers.rows import Kind, Role

F64 = NDArray[np.float64]

FEWEST = 4  # samples that the sources are measured on, however large the model is
FOLDED = 1 << 14  # numbers of each output's error that are kept
NUMBERS = 1 << 31  # that are computed anew, over all sources, on more than that


class Source(NamedTuple):
    """Something that is rounded; `value`, `read` and `parameters` make one."""

    kind: str
    name: str


def value(name: str) -> Source:
    """A value that is rounded where it is made."""
    return Source("value", name)


def read(name: str) -> Source:
    """A value that is rounded for operations alone that take integers only, such as a Conv, not for a float sum."""
    return Source("read", name)


def parameters(name: str) -> Source:
    """The weights of the operation of that name, and its bias."""
    return Source("parameters", name)


def sources_of(plan: Plan, quantize_parameter: bool = True) -> set[Source]:
    """What is rounded in a model that is quantized like that.

    A value that only repeats or moves rounded numbers is none: the first of them is rounded, the others are exact.
    """
    found = {value(root.name or "") for scale in plan.home.values() for root in scale.roots}
    found |= {read(root.name or "") for scale in plan.read.values() for root in scale.roots}
    if quantize_parameter:
        for node, row in plan.rows.items():
            roles = (
                row.role(index) for index, v in enumerate(node.inputs) if v is not None and v.const_value is not None
            )
            if row.kind is Kind.COMPUTE and any(role in (Role.DATA, Role.WEIGHT) for role in roles):
                found.add(parameters(node.name or ""))
    return found


def computing(plan: Plan) -> frozenset[str]:
    """The operations that take integers only: they read a float value rounded."""
    return frozenset(node.name or "" for node, row in plan.rows.items() if row.kind is Kind.COMPUTE)


class Contributions:
    """What sources of noise contribute, alone and together.

    products: (outputs, sources, sources), of the errors that each source alone makes at each floating output of the
    model: their inner products, over the signal. So far as errors add up, those of several sources together have the
    power of all products among them: sources whose errors point the same way, or against each other, are known.
    Where an output is probabilities, all of that is of their logarithms: there no answer tips over.

    A source that was not measured (a value on the scale of others, which becomes one when those stay in float) counts
    as those others do.
    """

    def __init__(self, sources: Sequence[Source], products: F64, alike: Mapping[str, list[str]]) -> None:
        self._place = {source: number for number, source in enumerate(sources)}
        self._products = products
        self._alike = alike

    def together(self, sources: Iterable[Source]) -> F64:
        """Noise over signal of each output when all of these are rounded: (outputs,)."""
        places = sorted({place for source in sources for place in self._places(source)})
        return np.asarray(np.maximum(self._products[:, places][:, :, places].sum(axis=(1, 2)), 0.0))

    def _places(self, source: Source) -> list[int]:
        if source.kind == "read" and source not in self._place:
            source = value(source.name)  # none but such operations read it
        if source in self._place:
            return [self._place[source]]
        others = self._alike.get(source.name, []) if source.kind == "value" else []
        return [self._place[value(name)] for name in others if value(name) in self._place]


def measure_contributions(
    graph: Graph,
    executor: Executor,
    samples: Sequence[Feed],
    computing: frozenset[str],
    on_sample: Callable[[int, int], None] | None = None,
) -> Contributions:
    """What each source of a quantized and calibrated graph contributes, on as many of the samples as are affordable.

    The float model runs once for each sample; for each source there runs what depends on it.
    computing: the operations that take integers only, see `computing`.
    on_sample: called with the number of samples done, and of all.
    """
    meter = _Meter(graph, executor, computing)
    for done, feed in enumerate(samples):
        if done >= FEWEST and meter.numbers * (done + 1) > NUMBERS * done:
            break
        meter.add(feed)
        if on_sample is not None:
            on_sample(done + 1, len(samples))
    return meter.contributions()


class _Meter:
    """The errors of each source so far. numbers: about how many were computed anew."""

    def __init__(self, graph: Graph, executor: Executor, computing: frozenset[str]) -> None:
        operations = operations_of(graph)
        self._graph, self._executor = graph, executor
        self._pieces = Pieces(graph, operations)
        self._runs = {operation.name: OperationRun(graph, operation) for operation in operations}
        self._roots = {name: group.config for group in graph.groups for name in group.roots}
        self._outputs = graph.floating_outputs
        self._computing = computing
        inputs = [name for run in self._runs.values() for name in run.inputs]
        self._wanted = list(dict.fromkeys([*self._roots, *inputs, *self._pieces.boundaries]))
        mixed = [name for name in self._roots if self._has_other_readers(name)]
        sources = [*map(value, self._roots), *map(read, mixed), *map(parameters, self._runs)]
        self._sources = sources
        self._products = np.zeros((len(self._outputs), len(sources), len(sources)))
        self._signal = np.zeros(len(self._outputs))
        self.numbers = 0.0

    def add(self, feed: Feed) -> None:
        """Measure every source on one more sample."""
        exact = dict(zip(self._wanted, self._executor.forward(feed, self._wanted), strict=True))
        wanted = [compared(exact[name], exact[name]) for name in self._outputs]
        with ThreadPoolExecutor(self._executor.threads, thread_name_prefix="calibrant-sources") as pool:
            errors = list(pool.map(lambda source: self._errors(source, exact, wanted), self._sources))
        for number, reference in enumerate(wanted):
            together = np.stack([error[number] for error in errors])
            self._products[number] += together @ together.T
            self._signal[number] += np.square(reference).sum()
        self.numbers += sum(array.size for array in exact.values()) * len(self._sources) / 2

    def _errors(self, source: Source, exact: Mapping[str, NDArray[Any]], wanted: Sequence[F64]) -> list[F64]:
        """The error at each output, folded. wanted: what is compared of the outputs, see `compared`."""
        if source.kind != "parameters":
            seen = exact[source.name]
            readers = self._computing if source.kind == "read" else None
            changed = {source.name: Changed(seen, rounded_by(seen, self._roots[source.name]), readers)}
        else:
            changed = self._runs[source.name].with_parameters(exact)
        carried = dict(zip(self._pieces.outputs, self._pieces.carry(changed, exact), strict=True)) if changed else exact
        made = (compared(carried[name], exact[name]) for name in self._outputs)
        return [folded(one - other) for one, other in zip(made, wanted, strict=True)]

    def _has_other_readers(self, name: str) -> bool:
        """Whether operations that take integers only are some of its readers, but not all."""
        found = self._graph.value(name)
        readers = {(use.node.name or "") in self._computing for use in found.uses()}
        return readers == {True, False} or (readers == {True} and found.is_graph_output())

    def contributions(self) -> Contributions:
        """Of the samples so far."""
        signal = np.maximum(self._signal, np.finfo(np.float64).tiny)
        alike = {name: group.roots for group in self._graph.groups for name in group.values}
        return Contributions(self._sources, self._products / signal[:, None, None], alike)


def compared(x: NDArray[Any], exact: NDArray[Any]) -> F64:
    """What is compared of an output that is `exact` in the float model: logarithms of probabilities, else itself."""
    return logarithms(x) if are_probabilities(exact) else np.nan_to_num(x.astype(np.float64))


def folded(x: F64, most: int = FOLDED) -> F64:
    """`x` as at most so many numbers, with the same inner products as the other `x` of its size, on average.

    Longer ones are added up under random signs, always the same: a count sketch (Charikar et al., 2002).
    """
    x = x.reshape(-1)
    if x.size <= most:
        return x
    signs = np.random.default_rng(0).integers(0, 2, x.size, np.int8) * 2 - 1
    padded = np.zeros(-(-x.size // most) * most)
    padded[: x.size] = x * signs
    return np.asarray(padded.reshape(-1, most).sum(axis=0))
