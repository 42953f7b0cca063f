"""How far the outputs of two models are apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.analysis.measures import Difference
from calibrant.analysis.models import OpenPair
from calibrant.core import ModelError
from calibrant.engines.session import run

Metric = Callable[[list[NDArray[Any]], Any], float]


@dataclass
class OutputDifference:
    """How far one output of the second model is from that of the first, over all samples.

    difference: of a floating output; nothing is added for others.
    rows, agreeing: of a floating output of rank 2, how many rows there were, and in how many the largest value is in
        the same place; of integers and other types the elements, and how many are equal; 0 rows otherwise.
    reshaped: the samples in which the output had another shape in the second model; they count for nothing else.
    """

    difference: Difference = field(default_factory=Difference)
    rows: int = 0
    agreeing: int = 0
    reshaped: int = 0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB, as `Difference` has it."""
        return self.difference.sqnr_db

    @property
    def largest(self) -> float:
        """Of the absolute differences."""
        return self.difference.largest

    @property
    def agreement(self) -> float | None:
        """The share of rows that agree; None where the output has no rows."""
        return self.agreeing / self.rows if self.rows else None

    @property
    def is_float(self) -> bool:
        """Whether floats were compared."""
        return self.difference.elements > 0

    def add(self, one: NDArray[Any], other: NDArray[Any]) -> None:
        """Take in one sample's outputs."""
        if one.shape != other.shape:
            self.reshaped += 1
        elif one.dtype.kind != "f":
            self.rows += one.size
            self.agreeing += int((one == other).sum())
        else:
            self.difference.add(one, other)
            if one.ndim == 2 and one.shape[1] > 1:
                self.rows += len(one)
                self.agreeing += int((one.argmax(axis=1) == other.argmax(axis=1)).sum())


def together(outputs: Iterable[OutputDifference]) -> Difference:
    """The sums of all floating outputs."""
    floats = [output.difference for output in outputs if output.is_float]
    sums = {name: sum(getattr(one, name) for one in floats) for name in ("elements", "broken", "signal", "noise")}
    return Difference(**sums)


class Outputs:
    """Both models run whole, sample by sample: differences by output, the time each takes, and a user's metric.

    metrics: the sums of the metric, of either model.
    """

    def __init__(self, pair: OpenPair, metric: Metric | None) -> None:
        self._pair, self._metric = pair, metric
        self.found = {name: OutputDifference() for name in pair.outputs}
        self.samples = 0
        self.metrics = [0.0, 0.0]
        self._seconds: tuple[list[float], list[float]] = ([], [])

    def take(self, feed: Mapping[str, NDArray[Any]], about: Any) -> None:
        """Run both, in turn. about: what the metric is told of the sample."""
        one, other = self._pair.sessions
        exact = _timed(one, feed, list(self._pair.outputs), self._seconds[0])
        quantized = _timed(other, self._pair.renamed(feed), list(self._pair.outputs.values()), self._seconds[1])
        for found, a, b in zip(self.found.values(), exact, quantized, strict=True):
            found.add(np.asarray(a), np.asarray(b))
        if self._metric is not None:
            for number, outputs in enumerate((exact, quantized)):
                self.metrics[number] += float(self._metric(list(outputs), about))
        self.samples += 1

    @property
    def milliseconds(self) -> tuple[float, float]:
        """The medians over the samples; the first one warms up."""
        one, other = (1000 * float(np.median(seconds[1:] or seconds)) for seconds in self._seconds)
        return one, other

    def check(self) -> None:
        """Raise ModelError where an output never had the same shape in both models."""
        for name, found in self.found.items():
            if found.reshaped == self.samples:
                raise ModelError(
                    f"output '{name}' is never of one shape in {self._pair.paths[0]} and {self._pair.paths[1]}: "
                    "give two models of one network"
                )


def _timed(session: Any, feed: Mapping[str, Any], names: Sequence[str], seconds: list[float]) -> list[NDArray[Any]]:
    start = time.perf_counter()
    made: list[NDArray[Any]] = run(session, names, dict(feed))
    seconds.append(time.perf_counter() - start)
    return made
