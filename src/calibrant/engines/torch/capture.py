"""Steps on CUDA: operator by operator until a kind of sample has come again, then as a captured graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import onnx_ir as ir
import torch

from calibrant.core import CalibrantError
from calibrant.engines.torch.cuda import Cuda
from calibrant.engines.torch.tensors import to_array

MOST_GRAPHS = 8  # each keeps its inputs on the device, and some MB of the driver's
_REMEMBERED = 64  # kinds of samples that came once

Inputs = Mapping[ir.Value, Any]
_Kind = tuple[Any, ...]


class Step(Protocol):
    """What is done with a sample; called in the same way for samples of the same kind, so that it can be captured."""

    def __call__(self, inputs: Inputs, half: int | torch.Tensor) -> None:
        """inputs: tensors of the device, and numbers on the host. half: a tensor (int32, 1) where it is captured."""

    def memory(self) -> Any:
        """What a step reads beside its inputs, and must be kept for a captured one."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured step, and what it reads."""

    inputs: Inputs
    half: torch.Tensor
    replay: Callable[[], None]
    memory: Any


class Steps:
    """Runs a step for each sample, without waiting for the device.

    Samples are of one kind if those inputs that go to the device have the same shapes and types, and those that stay
    on the host the same content. The first two of a kind run operator by operator: the first compiles kernels and takes
    memory, the second tells whether anything in the step waits for the device. If not, the step is captured, which
    runs nothing; from then on a sample of that kind is copied into the captured inputs, and the graph is replayed.
    So every sample is counted once. Where that cannot be, all go on operator by operator, which `note` is told once.

    hosts: the inputs that stay on the host. capture: False to capture nothing.
    """

    def __init__(
        self, step: Step, hosts: Collection[ir.Value], cuda: Cuda, note: Callable[[str], None], capture: bool = True
    ) -> None:
        self._step = step
        self._hosts = hosts
        self._cuda = cuda
        self._note = note
        self._capture = capture
        self._graphs: dict[_Kind, _Graph] = {}
        self._came_once: deque[_Kind] = deque(maxlen=_REMEMBERED)

    def __call__(self, inputs: Inputs, half: int) -> None:
        """Run the step on the inputs of a sample, which are on the host and may change afterwards."""
        kind = self._kind(inputs)
        if kind in self._graphs:
            self._replay(self._graphs[kind], inputs, half)
        elif self._is_to_be_captured(kind):
            self._run_and_capture(kind, self._uploaded(inputs), half)
        else:
            self._step(self._uploaded(inputs), half)
        self._cuda.keep_pace()

    def _is_to_be_captured(self, kind: _Kind) -> bool:
        if not self._capture:
            return False
        if kind not in self._came_once:
            self._came_once.append(kind)
            return False
        if len(self._graphs) == MOST_GRAPHS:
            self._give_up(f"samples of more than {MOST_GRAPHS} shapes come again and again; those captured stay so")
        return self._capture

    def _run_and_capture(self, kind: _Kind, inputs: Inputs, half: int) -> None:
        if self._cuda.waits(lambda: self._step(inputs, half)):
            self._give_up("something in it waits for the device")
            return
        number = torch.full((1,), half, dtype=torch.int32, device=self._cuda.device)
        try:
            replay = self._cuda.capture(lambda: self._step(inputs, number))
        except (RuntimeError, CalibrantError) as error:
            self._give_up(str(error.__context__ or error).strip().split("\n")[0])
            return
        self._graphs[kind] = _Graph(inputs, number, replay, self._step.memory())

    def _replay(self, graph: _Graph, inputs: Inputs, half: int) -> None:
        for value, buffer in graph.inputs.items():
            if self._goes_to_device(value, buffer):
                self._cuda.refill(buffer, inputs[value])
        graph.half.fill_(half)
        graph.replay()

    def _give_up(self, why: str) -> None:
        self._capture = False
        self._note(f"steps run operator by operator, which is slower than a captured CUDA graph: {why}")

    def _uploaded(self, inputs: Inputs) -> Inputs:
        return {v: self._cuda.upload(x) if self._goes_to_device(v, x) else x for v, x in inputs.items()}

    def _kind(self, inputs: Inputs) -> _Kind:
        return tuple(
            (x.dtype, tuple(x.shape)) if self._goes_to_device(value, x) else _content(x) for value, x in inputs.items()
        )

    def _goes_to_device(self, value: ir.Value, x: Any) -> bool:
        return isinstance(x, torch.Tensor) and value not in self._hosts


def _content(x: Any) -> tuple[Any, ...]:
    array = to_array(x)
    return array.dtype, array.shape, str(array.tolist()) if array.dtype.kind in "OUS" else array.tobytes()
