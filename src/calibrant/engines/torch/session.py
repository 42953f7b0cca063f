"""TorchSession: a graph that is open on a device, for one executor."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray

from calibrant.core import ModelError, SettingError, TensorQuantizationConfig, closest
from calibrant.engines.executor import Collect, OnStep, RawCallback, input_specs
from calibrant.engines.halves import half_of
from calibrant.engines.masking import Masking
from calibrant.engines.samples import Feed, iterate_samples
from calibrant.engines.torch.capture import Inputs, Steps
from calibrant.engines.torch.counting import Counting
from calibrant.engines.torch.cuda import Cuda
from calibrant.engines.torch.fake_quantize import ConfiguredGrids
from calibrant.engines.torch.interpreter import Interpreter
from calibrant.engines.torch.masked import Masked
from calibrant.engines.torch.plan import Plan, Slot
from calibrant.engines.torch.precision import COMPUTED_IN, arithmetic, check_precision
from calibrant.engines.torch.statistics import statistics_on
from calibrant.engines.torch.tensors import to_tensor
from calibrant.engines.torch.values import constant_of
from calibrant.graph import Graph
from calibrant.graph.graph import original
from calibrant.sketches import Halves, SketchSpec


class TorchSession:
    """Runs samples of a graph, and counts what they make."""

    def __init__(self, graph: Graph, device: str, precision: str, threads: int, note: Callable[[str], None]) -> None:
        self._graph = graph
        self._device = torch.device(device)
        self._precision = precision
        self._threads = threads
        self._note = note
        self._interpreter = Interpreter(graph.model, self._device, COMPUTED_IN[precision], threads, note)
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._blocks: dict[tuple[str, ...], Plan] = {}

    def tell_again(self) -> None:
        """Report what onnxruntime runs even if that was reported before."""
        self._interpreter.tell_again()

    def forward(self, feed: Feed, names: Sequence[str]) -> list[NDArray[Any]]:
        """The values `names` of a checked sample."""
        key = tuple(names)
        if key not in self._plans:
            self._plans[key] = self._interpreter.plan(self._values(names))
        plan = self._plans[key]
        inputs = {value: to_tensor(feed[value.name or ""]) for value in plan.inputs}
        with self._computing():
            uploaded = {v: x if v in plan.hosts else self._on_device(x) for v, x in inputs.items()}
            found = self._interpreter.run(plan, uploaded, replaced=self._changed(as_floats=True))
        return [self._interpreter.array(value, x) for value, x in zip(self._values(names), found, strict=True)]

    def forward_quantized(
        self, inputs: Any, names: Sequence[str], parameters: Mapping[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """See `TorchExecutor.forward_quantized`. The configs are read anew each time."""
        plan = self._interpreter.plan(self._values(names), grids=ConfiguredGrids(self._graph))
        replaced = self._changed(as_floats=False)
        replaced |= self._trained(parameters)
        with arithmetic(self._precision, self._threads):
            return self._interpreter.run(plan, self._tensors(inputs), replaced=replaced)

    def forward_block(
        self,
        values: Mapping[str, torch.Tensor],
        names: Sequence[str],
        parameters: Mapping[str, torch.Tensor],
        scales: Mapping[TensorQuantizationConfig, torch.Tensor],
    ) -> list[torch.Tensor]:
        """See `TorchExecutor.forward_block`."""
        key = (*names, "", *values)
        if key not in self._blocks:
            given = self._values(list(values))
            self._blocks[key] = self._interpreter.plan(self._values(names), (), ConfiguredGrids(self._graph), given)
        plan = self._blocks[key]
        lacking = [value.name or "" for value in plan.inputs if value.name not in values]
        if lacking:
            there = ", ".join(values)
            raise ModelError(f"{there} do not lead to {', '.join(names)}: that needs '{lacking[0]}' as well")
        read = {slot for step in plan.steps for slot in step.touched}
        replaced = self._changed(as_floats=False, of=read)
        replaced |= self._trained(parameters)
        with arithmetic(self._precision, self._threads):
            inputs = {value: values[value.name or ""] for value in plan.inputs}
            return self._interpreter.run(plan, inputs, replaced=replaced, scales=scales)

    def collecting(
        self,
        wanted: Mapping[str, SketchSpec],
        raw: Mapping[str, RawCallback],
        capture: bool,
        masking: Masking | None = None,
    ) -> Collect:
        """`collect` for several blocks of samples, one after the other, which count in the same memory.

        capture: whether to capture steps into CUDA graphs; where somebody wants raw values, which go to the host at
        once, or a mask says what counts of each sample, that cannot be. on_step of what is returned is called once a
        step is on its way to the device. masking: what counts of a padded batch; None: all of it.
        """
        statistics = statistics_on(self._device, wanted, self._threads, self._note)
        replaced = self._changed(as_floats=True)
        masked = None if masking is None else Masked(masking, self._device)
        step = Counting(self._graph, self._interpreter, statistics, wanted, raw, replaced, masked)
        run: Callable[[Inputs, int], None] = step
        if self._device.type == "cuda":
            run = Steps(step, step.plan.hosts, Cuda(self._device), self._note, capture and not raw and masked is None)

        def collect(samples: Iterable[Feed], on_step: OnStep | None = None) -> Halves:
            statistics.clear()
            for number, feed in enumerate(samples, 1):
                inputs = {value: to_tensor(feed[value.name or ""], copy=False) for value in step.plan.inputs}
                if masked is not None:
                    masked.begin(feed, number)
                try:
                    with self._computing():
                        run(inputs, half_of(feed))
                except ModelError as error:
                    raise ModelError(f"sample {number}: {error}") from error
                if on_step is not None:
                    on_step(number)
            return statistics.sketches()

        return collect

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Inside, operators compute as they are to, and no gradients are kept."""
        chosen = torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()
        with chosen, torch.no_grad(), arithmetic(self._precision, self._threads):
            yield

    def _tensors(self, inputs: Any) -> dict[ir.Value, Any]:
        """A sample whose tensors are taken as they are; what else there is, or lacks, is checked."""
        specs = input_specs(self._graph)
        given = [inputs] if isinstance(inputs, torch.Tensor) else inputs
        if isinstance(given, list | tuple) and len(given) == len(specs):
            given = {spec.name: x for spec, x in zip(specs, given, strict=True)}
        tensors = {n: x for n, x in given.items() if isinstance(x, torch.Tensor)} if isinstance(given, Mapping) else {}
        if tensors.keys() != {spec.name for spec in specs} or len(given) > len(specs):
            checked = next(iterate_samples([inputs], specs))
            tensors = {name: tensors[name] if name in tensors else to_tensor(x) for name, x in checked.items()}
        return {self._graph.value(name): x for name, x in tensors.items()}

    def _on_device(self, x: Any) -> Any:
        return x.to(self._device) if isinstance(x, torch.Tensor) else x

    def _values(self, names: Sequence[str]) -> list[ir.Value]:
        return [self._graph.value(name) for name in names]

    def _changed(self, as_floats: bool, of: Container[Slot] | None = None) -> dict[ir.Value, torch.Tensor]:
        """The constants that the quantized model has otherwise than the float model, as one of them has them.

        of: only those among these; None: all.
        """
        values = [self._graph.value(name) for name in self._graph.changed_constants]
        values = [value for value in values if of is None or value in of]
        tensors = [original(value) if as_floats else self._graph.as_read(value) for value in values]
        return {v: to_tensor(t.numpy()) for v, t in zip(values, tensors, strict=True) if t is not None}

    def _trained(self, parameters: Mapping[str, torch.Tensor]) -> dict[ir.Value, torch.Tensor]:
        """The constants that these stand for. Raises SettingError for a name of none, or another shape."""
        found = {self._constant(name): tensor for name, tensor in parameters.items()}
        for value, tensor in found.items():
            constant = constant_of(value)
            shape = None if constant is None else tuple(constant.shape)
            got = tuple(tensor.shape)
            if got != shape:
                raise SettingError(f"the parameter for '{value.name}' has shape {got}, expected {shape}")
        return found

    def _constant(self, name: str) -> ir.Value:
        found = next((v for v in self._graph.values() if v.name == name and constant_of(v) is not None), None)
        if found is None:
            constants = [v.name or "" for v in self._graph.model.graph.initializers.values()]
            near = closest(name, constants)
            raise SettingError(f"the model has no constant '{name}'" + (f"; did you mean '{near}'?" if near else ""))
        return found


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
