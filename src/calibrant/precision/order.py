"""In which order operations are best left in float, foretold from what each source of noise contributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibrant.core import TargetPlatform
from calibrant.graph import Graph
from calibrant.precision.sources import Contributions, sources_of
from calibrant.quantizers.quantize import plan_of
from calibrant.settings import QuantizationSetting

F64 = NDArray[np.float64]
Names = frozenset[str]


@dataclass(frozen=True)
class Forecast:
    """What becomes of the model when some operations are left in float.

    quantized: the operations that are left; others may go to float along with those that were named.
    noise: over the signal of each output. observed: whether the statistics of all values that are rounded are known.
    """

    quantized: Names
    noise: F64
    observed: bool

    @property
    def sqnr_db(self) -> float:
        """The mean over outputs, in dB."""
        if not self.noise.size:
            return 200.0
        return float(np.clip(-10 * np.log10(np.maximum(self.noise, 1e-20)), -200, 200).mean())


class Planner:
    """Forecasts for one model, platform and setting; each is made once.

    observed: values whose statistics are known; None: whatever is needed.
    """

    def __init__(
        self,
        graph: Graph,
        platform: TargetPlatform,
        setting: QuantizationSetting,
        contributions: Contributions,
        observed: Names | None = None,
    ) -> None:
        self._observed = observed
        self._graph, self._platform, self._setting = graph, platform, setting
        self._contributions = contributions
        self._known: dict[Names, Forecast] = {}

    def forecast(self, left: Names) -> Forecast:
        """left: names of operations that are left in float, beside those of the setting."""
        if left not in self._known:
            plan = plan_of(self._graph, self._platform, leaving(self._setting, left))
            sources = sources_of(plan, self._setting.quantize_parameter)
            rounded = {source.name for source in sources if source.kind != "parameters"}
            observed = self._observed is None or rounded <= self._observed
            quantized = frozenset(node.name or "" for node in plan.rows)
            self._known[left] = Forecast(quantized, self._contributions.together(sources), observed)
        return self._known[left]


def leaving(setting: QuantizationSetting, left: Names) -> QuantizationSetting:
    """The setting with these operations left in float as well."""
    more = [name for name in sorted(left) if name not in setting.leave_in_float]
    return replace(setting, leave_in_float=[*setting.leave_in_float, *more])


def per_operation(share: float, lost: int) -> float:
    """How much of the noise is gone for each operation lost."""
    return share / lost


def in_all(share: float, lost: int) -> float:
    """How much of the noise is gone, whatever it costs: what then comes may cost little."""
    return share


def best_order(
    planner: Planner,
    graph: Graph,
    weigh: Callable[[float, int], float] = per_operation,
) -> Iterator[Names]:
    """Growing sets of operations to leave in float, each made from the one before by the step of the greatest worth.

    weigh: the worth of a step, by the share of the noise that it takes away and by how many operations it loses.
    Sets under which a value is rounded that was not observed are passed over.
    The first set is empty; the last leaves nothing quantized. One step adds an operation, or one and a reader of what
    it makes: a value between two operations is exact only when both are in float.

    What leaving an operation gains changes only when something near it does, so that a step weighs those anew alone.
    """
    left: Names = frozenset()
    now = planner.forecast(left)
    near = _neighbours(graph, now.quantized)
    candidates = [frozenset({name}) for name in sorted(now.quantized)]
    candidates += sorted({frozenset({a, b}) for a in near for b in near[a]}, key=sorted)
    weighed: dict[Names, tuple[F64, int]] = {}
    yield left
    while now.quantized:
        for candidate in candidates:
            if candidate not in weighed:
                then = planner.forecast(left | candidate)
                lost = len(now.quantized - then.quantized) if then.observed else 0
                weighed[candidate] = now.noise - then.noise, lost
        serving = [c for c in candidates if weighed[c][1] and c & now.quantized]
        if not serving:
            break
        best = max(serving, key=lambda c: weigh(_share(weighed[c][0], now.noise), weighed[c][1]))
        left |= best
        before, now = now, planner.forecast(left)
        yield left
        touched = _around(before.quantized - now.quantized, near)
        candidates = [c for c in candidates if c & now.quantized]
        weighed = {c: found for c, found in weighed.items() if not c & touched}
    if now.quantized:
        yield left | now.quantized


def _share(gain: F64, noise: F64) -> float:
    """Of the noise: the mean over outputs."""
    shares = gain / np.maximum(noise, np.finfo(np.float64).tiny)
    return float(shares.mean() if shares.size else 0.0)


def _neighbours(graph: Graph, operations: Names) -> dict[str, set[str]]:
    """By operation, those that read what it makes or make what it reads, across what is not quantized in between."""
    near: dict[str, set[str]] = {name: set() for name in operations}
    makers: dict[object, set[str]] = {}
    for node in graph.model.graph:
        name = node.name or ""
        behind = set().union(*(makers.get(value, set()) for value in node.inputs if value is not None))
        if name in near:
            for other in behind:
                near[name].add(other)
                near[other].add(name)
            behind = {name}
        makers.update(dict.fromkeys(node.outputs, behind))
    return near


def _around(names: Sequence[str] | Names, near: dict[str, set[str]]) -> set[str]:
    """These operations and their neighbours, and the neighbours of those."""
    found = set(names)
    for _ in range(2):
        found |= set().union(*(near.get(name, set()) for name in found))
    return found
