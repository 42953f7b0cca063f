"""Ways to quantize a float model anew, each with what its outputs are then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from calibrant.analysis import Difference, Simulation
from calibrant.core import CalibrantError, TargetPlatform
from calibrant.engines import Executor
from calibrant.engines.samples import Feed
from calibrant.engines.session import usable_processors
from calibrant.quantization import quantize
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable

OnRun = Callable[[int, int], None]
METHODS = (None, "minmax", "percentile", "mse", "kl")  # None: the platform's own
WORST = 3  # layers that are left in float, at most


@dataclass(frozen=True)
class Fix:
    """One way to quantize the float model, and what it gives.

    method: for activations; None: the platform's own. leave_in_float: names of nodes. reduce_range: as in settings.
    sqnr_db: of the outputs, on the samples that the layers were tried on. gain_db: over the other model, on the same;
        where sums saturate, over what that gives on this processor.
    """

    method: str | None
    leave_in_float: tuple[str, ...]
    sqnr_db: float
    gain_db: float
    reduce_range: bool = False


class Trials:
    """The float model, quantized in one way after another from one table, and run: as `calibrant quantize` does it.

    model: its file. executor: runs it. reduce_range: of every trial.
    """

    def __init__(
        self,
        model: str | Path,
        executor: Executor,
        platform: TargetPlatform,
        table: CalibrationTable,
        samples: Sequence[Feed],
        reduce_range: bool = False,
    ) -> None:
        self._model, self._platform, self._table, self._samples = model, platform, table, samples
        self.reduce_range = reduce_range
        self._exact = [executor.forward(feed) for feed in samples]

    def sqnr_db(self, method: str | None, leave_in_float: Sequence[str]) -> float:
        """Of the outputs of the model that is quantized so. Raises as `quantize` does."""
        setting = QuantizationSetting(leave_in_float=list(leave_in_float))
        setting.quantize_activation_setting.calib_algorithm = method
        setting.quantize_activation_setting.reduce_range = self.reduce_range
        graph, _ = quantize(self._model, None, platform=self._platform, setting=setting, table=self._table)
        model, difference = Simulation(graph, threads=1), Difference()
        with ThreadPoolExecutor(usable_processors(), thread_name_prefix="calibrant-trials") as pool:
            for exact, outputs in zip(self._exact, pool.map(model.run, self._samples), strict=True):
                for one, other in _floats(exact, outputs):
                    difference.add(one, other)
        return difference.sqnr_db


def find_fixes(
    trials: Trials, base_db: float, worst: Sequence[str], on_run: OnRun | None = None
) -> tuple[list[Fix], list[str]]:
    """Try every method; with the best of them, leave the worst layer in float, the two worst, the three worst.

    base_db: SQNR of the outputs of the model that is to be improved. worst: names of nodes, the worst first.
    Returns all that could be tried, the largest gain first, of equal ones the simpler first; and a sentence on each way
    that the model or the platform refuses. on_run: called with the number of ways tried, and of all.
    """
    groups = [tuple(worst[:number]) for number in range(1, min(WORST, len(worst)) + 1)]
    total, done = len(METHODS) + len(groups), 0
    fixes: list[Fix] = []
    refused: list[str] = []

    def attempt(method: str | None, leave: tuple[str, ...]) -> None:
        nonlocal done
        try:
            sqnr = trials.sqnr_db(method, leave)
            fixes.append(Fix(method, leave, sqnr, sqnr - base_db, trials.reduce_range))
        except CalibrantError as error:
            what = method or "the platform's own method"
            refused.append(f"{what}{' with ' + ', '.join(leave) + ' in float' if leave else ''}: {error}")
        done += 1
        if on_run is not None:
            on_run(done, total)

    for method in METHODS:
        attempt(method, ())
    if fixes:
        best = max(fixes, key=lambda fix: fix.sqnr_db)
        for group in groups:
            attempt(best.method, group)
    return sorted(fixes, key=lambda fix: (-fix.gain_db, len(fix.leave_in_float))), refused


def _floats(
    exact: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    return ((one, other) for one, other in zip(exact, outputs, strict=True) if one.dtype.kind == "f")
