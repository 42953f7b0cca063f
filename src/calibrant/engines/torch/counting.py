"""Counting: the step of a calibration. A sample runs, and each value is counted the moment it exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from calibrant.core import ObservationError
from calibrant.engines.executor import RawCallback
from calibrant.engines.statistics import named
from calibrant.engines.torch.capture import Inputs
from calibrant.engines.torch.interpreter import Interpreter
from calibrant.engines.torch.statistics import TensorStatistics
from calibrant.graph import Graph


class Counting:
    """A `Step` that counts the values `wanted` into `statistics`, and gives copies of others to functions.

    plan: what it runs.
    """

    def __init__(
        self,
        graph: Graph,
        interpreter: Interpreter,
        statistics: TensorStatistics,
        wanted: Iterable[str],
        raw: Mapping[str, RawCallback],
    ) -> None:
        self._interpreter = interpreter
        self._statistics = statistics
        self._values = {graph.value(name): (name in wanted, raw.get(name)) for name in dict.fromkeys([*wanted, *raw])}
        self.plan = interpreter.plan([], list(self._values))

    def __call__(self, inputs: Inputs, half: int | torch.Tensor) -> None:
        looks = {value: self._look(value, *what, half) for value, what in self._values.items()}
        self._interpreter.run(self.plan, inputs, looks)

    def replayed(self) -> None:
        self._statistics.replayed()

    def memory(self) -> Any:
        return self._interpreter.uploads()

    def _look(
        self, value: Any, is_wanted: bool, callback: RawCallback | None, half: int | torch.Tensor
    ) -> Callable[[torch.Tensor], None]:
        """What is done with a value the moment it exists."""
        name = value.name or ""

        def look(x: torch.Tensor) -> None:
            if is_wanted:
                if not isinstance(x, torch.Tensor) or not x.is_floating_point():
                    kind = getattr(x, "dtype", type(x).__name__)
                    raise ObservationError(f"value '{name}' is {kind}: only floating values can be observed")
                self._statistics.add({name: x}, half)
            if callback is not None:
                try:
                    callback(self._interpreter.array(value, x))
                except Exception as error:
                    raise named(error, name) from error

        return look
