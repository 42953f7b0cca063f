"""TorchSession: a graph that is open on a device, for one executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray

from calibrant.core import ModelError, ObservationError, SettingError, closest
from calibrant.engines.executor import OnStep, RawCallback, input_specs
from calibrant.engines.halves import half_of
from calibrant.engines.samples import Feed, iterate_samples
from calibrant.engines.statistics import named
from calibrant.engines.torch.fake_quantize import ConfiguredGrids
from calibrant.engines.torch.interpreter import Interpreter
from calibrant.engines.torch.plan import Plan
from calibrant.engines.torch.precision import COMPUTED_IN, arithmetic, check_precision
from calibrant.engines.torch.statistics import TensorStatistics, statistics_on
from calibrant.engines.torch.tensors import to_tensor
from calibrant.engines.torch.values import constant_of
from calibrant.graph import Graph
from calibrant.sketches import Halves, SketchSpec

Look = Callable[[torch.Tensor], None]


class TorchSession:
    """Runs samples of a graph, and counts what they make."""

    def __init__(self, graph: Graph, device: str, precision: str, threads: int, note: Callable[[str], None]) -> None:
        self._graph = graph
        self._device = torch.device(device)
        self._precision = precision
        self._threads = threads
        self._interpreter = Interpreter(graph.model, self._device, COMPUTED_IN[precision], threads, note)
        self._buffers = InputBuffers(self._device)
        self._plans: dict[tuple[str, ...], Plan] = {}

    def tell_again(self) -> None:
        """Report what onnxruntime runs even if that was reported before."""
        self._interpreter.tell_again()

    def forward(self, feed: Feed, names: Sequence[str]) -> list[NDArray[Any]]:
        """The values `names` of a checked sample."""
        key = tuple(names)
        if key not in self._plans:
            self._plans[key] = self._interpreter.plan(self._values(names))
        with torch.no_grad(), arithmetic(self._precision, self._threads):
            found = self._interpreter.run(self._plans[key], self._fed(feed, self._plans[key]))
        return [self._interpreter.array(value, x) for value, x in zip(self._values(names), found, strict=True)]

    def forward_quantized(
        self, inputs: Any, names: Sequence[str], parameters: Mapping[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """See `TorchExecutor.forward_quantized`. The configs are read anew each time."""
        plan = self._interpreter.plan(self._values(names), grids=ConfiguredGrids(self._graph))
        replaced = {self._constant(name): tensor for name, tensor in parameters.items()}
        with arithmetic(self._precision, self._threads):
            return self._interpreter.run(plan, self._tensors(inputs), replaced=replaced)

    def collect(
        self,
        samples: Iterable[Feed],
        wanted: Mapping[str, SketchSpec],
        raw: Mapping[str, RawCallback],
        on_step: OnStep | None,
    ) -> Halves:
        """Run every sample once; the sketch of each wanted value."""
        statistics = statistics_on(self._device, wanted, self._threads)
        values = self._values(list(dict.fromkeys([*wanted, *raw])))
        plan = self._interpreter.plan([], values)
        for number, feed in enumerate(samples, 1):
            half = half_of(feed)
            looks = {value: self._look(value, wanted, raw, statistics, half) for value in values}
            try:
                with torch.no_grad(), arithmetic(self._precision, self._threads):
                    self._interpreter.run(plan, self._fed(feed, plan), looks)
            except ModelError as error:
                raise ModelError(f"sample {number}: {error}") from error
            if on_step is not None:
                on_step(number)
        return statistics.sketches()

    def _look(
        self,
        value: ir.Value,
        wanted: Mapping[str, SketchSpec],
        raw: Mapping[str, RawCallback],
        statistics: TensorStatistics,
        half: int,
    ) -> Look:
        """What is done with a value the moment it exists."""
        name = value.name or ""

        def look(x: torch.Tensor) -> None:
            if name in wanted:
                if not isinstance(x, torch.Tensor) or not x.is_floating_point():
                    kind = getattr(x, "dtype", type(x).__name__)
                    raise ObservationError(f"value '{name}' is {kind}: only floating values can be observed")
                statistics.add({name: x}, half)
            if name in raw:
                try:
                    raw[name](self._interpreter.array(value, x))
                except Exception as error:
                    raise named(error, name) from error

        return look

    def _fed(self, feed: Feed, plan: Plan) -> dict[ir.Value, Any]:
        """What the plan needs of a sample: numbers on the host, all else in the buffers."""
        tensors = {value: to_tensor(feed[value.name or ""]) for value in plan.inputs}
        return {v: x if v in plan.hosts else self._buffers.hold(v.name or "", x) for v, x in tensors.items()}

    def _tensors(self, inputs: Any) -> dict[ir.Value, Any]:
        """A sample whose tensors are taken as they are."""
        specs = input_specs(self._graph)
        given = [inputs] if isinstance(inputs, torch.Tensor) else inputs
        if isinstance(given, list | tuple) and len(given) == len(specs):
            given = {spec.name: x for spec, x in zip(specs, given, strict=True)}
        if not isinstance(given, Mapping) or not all(isinstance(x, torch.Tensor) for x in given.values()):
            given = {name: to_tensor(x) for name, x in next(iterate_samples([inputs], specs)).items()}
        return {self._graph.value(name): x for name, x in given.items()}

    def _values(self, names: Sequence[str]) -> list[ir.Value]:
        return [self._graph.value(name) for name in names]

    def _constant(self, name: str) -> ir.Value:
        found = next((v for v in self._graph.values() if v.name == name and constant_of(v) is not None), None)
        if found is None:
            constants = [v.name or "" for v in self._graph.model.graph.initializers.values()]
            near = closest(name, constants)
            raise SettingError(f"the model has no constant '{name}'" + (f"; did you mean '{near}'?" if near else ""))
        return found


class InputBuffers:
    """Inputs in memory of the device that stays the same as long as their shapes do."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, torch.Tensor] = {}

    def hold(self, name: str, x: Any) -> Any:
        """The input's buffer, filled with `x`. On the CPU `x` itself, and what is no tensor as well."""
        if not isinstance(x, torch.Tensor) or self._device.type == "cpu":
            return x
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != x.shape or buffer.dtype != x.dtype:
            buffer = self._buffers[name] = torch.empty(x.shape, dtype=x.dtype, device=self._device)
        return buffer.copy_(x)


def check_settings(device: str, precision: str) -> None:
    """Raise SettingError for a device that is not there, and for a precision that is none."""
    check_precision(precision)
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise SettingError(f"'{device}' is no device: expected cpu, cuda or cuda:N") from error
    if kind.type not in ("cpu", "cuda"):
        raise SettingError(f"device '{device}': the torch engine runs on cpu and on cuda")
    count = torch.cuda.device_count() if kind.type == "cuda" else 0
    if kind.type == "cuda" and (kind.index or 0) >= count:
        raise SettingError(
            f"device '{device}' is not there: torch {torch.__version__} finds {count} CUDA device(s). "
            "Give device='cpu', or install a torch that has CUDA on a machine that has it"
        )
