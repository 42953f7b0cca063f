"""How a quantized model stands to its targets, on each half of the samples by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from calibrant.analysis import Simulation
from calibrant.analysis.probabilities import Outputs, logs_of
from calibrant.engines import Executor, InputSpec, iterate_samples
from calibrant.engines.halves import half_of
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.precision.scoring import Score, Targets, applied, mean_sqnr


class Judge:
    """Runs quantized models, and compares them with the float one.

    choosing: the half of the samples to find out what to try; the other is for what was tried. Where one half is empty,
        both are all of the samples.
    float_metric: what the user's metric says of the float model; None without one.
    """

    def __init__(self, targets: Targets, samples: Sequence[Feed], executor: Executor) -> None:
        self.targets = targets
        self._executor = executor
        halves = [[feed for feed in samples if half_of(feed) == half] for half in (0, 1)]
        self._halves = halves if all(halves) else [list(samples)] * 2
        self._exact = [[executor.forward(feed) for feed in half] for half in self._halves]
        self.float_metric = None if targets.metric is None else applied(targets.metric, executor.forward)

    @property
    def choosing(self) -> list[Feed]:
        return self._halves[0]

    def score(self, graph: Graph) -> Score:
        """Of the graph as it is quantized now: `least_sqnr` of the worse half; the metric on data of its own."""
        simulation = Simulation(graph, threads=1)
        metric = self.targets.metric
        found = None if metric is None else applied(metric, _run(simulation, self._executor.input_specs))
        with ThreadPoolExecutor(self._executor.threads, thread_name_prefix="calibrant-target") as pool:
            outputs = [list(pool.map(simulation.run, half)) for half in self._halves]
        return Score(min(map(least_sqnr, self._exact, outputs)), found)

    def misses(self, score: Score) -> bool:
        """Whether that is short of a target."""
        targets = self.targets
        short = targets.sqnr_db is not None and score.sqnr_db < targets.sqnr_db
        if score.metric is None or targets.max_drop is None or self.float_metric is None:
            return short
        return short or score.metric < self.float_metric - targets.max_drop


def least_sqnr(references: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
    """`mean_sqnr` of the outputs, or, where some are probabilities, of these with their logarithms, if that is less.

    Of probabilities a few samples on which the answer tips over make up nearly all of the error: what is left in float
    for those alone is of no use to others. The logarithms tell something of every sample.
    """
    logs = [logs_of(exact, found) for exact, found in zip(references, outputs, strict=True)]
    return min(mean_sqnr(references, outputs), mean_sqnr([a for a, _ in logs], [b for _, b in logs]))


def _run(simulation: Simulation, inputs: Sequence[InputSpec]) -> Callable[[Any], list[NDArray[Any]]]:
    return lambda sample: simulation.run(next(iterate_samples([sample], inputs)))
