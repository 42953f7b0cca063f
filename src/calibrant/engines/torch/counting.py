"""Counting: the step of a calibration. A sample runs, and each value is counted the moment it exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from calibrant.engines.executor import RawCallback, not_floating
from calibrant.engines.statistics import named
from calibrant.engines.torch.capture import Inputs
from calibrant.engines.torch.interpreter import Interpreter
from calibrant.engines.torch.masked import Masked
from calibrant.engines.torch.statistics import TensorStatistics
from calibrant.graph import Graph

# Bytes: on a GPU a launch for less spends much of its time on beginning and ending; and unless a graph replays it, the
# host is slow to launch.
TOGETHER, TOGETHER_LAUNCHED = 1 << 27, 1 << 28


class Counting:
    """A `Step` that counts the values `wanted` into `statistics`, and gives copies of others to functions.

    On CUDA values wait until there are so many bytes of them that they are worth a launch (TOGETHER), and are then
    counted beside what the model goes on to compute, on a stream of their own: counting waits for memory, most models
    for arithmetic. They live until the next ones are to be counted, so at most about twice as much waits.

    replaced: constants of other content. masked: what counts of each value; None: all. plan: what it runs.
    """

    def __init__(
        self,
        graph: Graph,
        interpreter: Interpreter,
        statistics: TensorStatistics,
        wanted: Iterable[str],
        raw: Mapping[str, RawCallback],
        replaced: Mapping[Any, torch.Tensor],
        masked: Masked | None = None,
    ) -> None:
        self._interpreter = interpreter
        self._replaced = replaced
        self._statistics = statistics
        self._masked = masked
        self._values = {graph.value(name): (name in wanted, raw.get(name)) for name in dict.fromkeys([*wanted, *raw])}
        self.plan = interpreter.plan([], list(self._values))
        self._waiting: dict[str, torch.Tensor] = {}
        self._bytes = 0  # of those
        self._counted: dict[str, torch.Tensor] = {}  # on the other stream, and maybe not through
        self._beside: dict[torch.device, torch.cuda.Stream] = {}

    def __call__(self, inputs: Inputs, half: int | torch.Tensor) -> None:
        looks = {value: self._look(value, *what, half) for value, what in self._values.items()}
        try:
            self._interpreter.run(self.plan, inputs, looks, self._replaced)
            self._count(half)
        finally:
            self._waiting, self._bytes = {}, 0
            self._join()

    def memory(self) -> Any:
        return self._interpreter.uploads()

    def _look(
        self, value: Any, is_wanted: bool, callback: RawCallback | None, half: int | torch.Tensor
    ) -> Callable[[torch.Tensor], None]:
        """What is done with a value the moment it exists."""
        name, enough = value.name or "", TOGETHER if isinstance(half, torch.Tensor) else TOGETHER_LAUNCHED

        def look(x: torch.Tensor) -> None:
            if is_wanted:
                if not isinstance(x, torch.Tensor) or not x.is_floating_point():
                    raise not_floating(name, getattr(x, "dtype", type(x).__name__))
                self._waiting[name] = x
                self._bytes += x.nbytes
                if self._bytes >= enough or not x.is_cuda:
                    self._count(half)
            if callback is not None:
                array = self._interpreter.array(value, x)
                try:
                    for part in [array] if self._masked is None else self._masked.arrays(name, array):
                        callback(part)
                except Exception as error:
                    raise named(error, name) from error

        return look

    def _count(self, half: int | torch.Tensor) -> None:
        """Count what waits."""
        device = next((x.device for x in self._waiting.values() if x.is_cuda), None)
        if device is None:
            self._add(half)
        else:
            self._join()
            if device not in self._beside:
                self._beside[device] = torch.cuda.Stream(device)
            self._beside[device].wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(self._beside[device]):
                self._add(half)
            self._counted = self._waiting
        self._waiting, self._bytes = {}, 0

    def _add(self, half: int | torch.Tensor) -> None:
        for values in [self._waiting] if self._masked is None else self._masked.parts(self._waiting):
            self._statistics.add(values, half)

    def _join(self) -> None:
        """Let the model's stream wait until what was counted beside it is through, and free to go."""
        for device in {x.device for x in self._counted.values()}:
            torch.cuda.current_stream(device).wait_stream(self._beside[device])
        self._counted = {}
