"""TorchExecutor: runs a graph with torch, on the CPU or on CUDA, and takes statistics of its values on the way."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from calibrant.core import SettingError, TensorQuantizationConfig
from calibrant.engines.executor import Collect, Executor, OnStep, RawCallback, check_names, not_floating
from calibrant.engines.masking import Masking
from calibrant.engines.samples import Feed
from calibrant.engines.session import usable_processors
from calibrant.graph import Graph
from calibrant.sketches import Halves, SketchSpec

if TYPE_CHECKING:
    import torch

    from calibrant.engines.torch.session import TorchSession


class TorchExecutor(Executor):
    """Runs the float model of `graph` with torch.

    device: "cpu", "cuda", "cuda:1", as torch has it. One that is not there is an error, never replaced.
    precision: what FLOAT is computed in: "float32", "tf32" (float32, products in TF32 on CUDA), "float16", "bfloat16".
        Outputs and statistics are float32 all the same, of the values as they were computed.
    threads: of torch on the CPU, and of statistics there; None: all.
    capture: on CUDA, whether samples of the same shapes as two before them run as one captured CUDA graph, which costs
        the host next to nothing. What cannot be captured runs operator by operator, which `report` says; so does
        everything where raw values are asked for, or the graph names a mask.

    An operator that the engine lacks is run by onnxruntime on the host, which `report` says.
    Raises SettingError where torch is not installed, for a device that is not there, for an unknown precision.
    """

    def __init__(
        self,
        graph: Graph,
        device: str = "cuda",
        precision: str = "float32",
        threads: int | None = None,
        capture: bool = True,
    ) -> None:
        if importlib.util.find_spec("torch") is None:
            raise SettingError("TorchExecutor needs PyTorch, which is not installed: pip install 'calibrant[torch]'")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise SettingError(f"threads must be a whole number from 1, got {threads!r}")
        super().__init__(graph)
        from calibrant.engines.torch.session import check_settings

        check_settings(device, precision)
        self._device = str(device)
        self._precision = precision
        self._threads = threads or usable_processors()
        self._capture = capture
        self._session: TorchSession | None = None

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def device(self) -> str:
        """Where it computes, as torch spells it."""
        return self._device

    @property
    def description(self) -> str:
        import torch

        return f"torch {torch.__version__} {self._device} {self._precision}"

    def settings(self, threads: int) -> Callable[[Graph], TorchExecutor]:
        return partial(
            TorchExecutor, device=self._device, precision=self._precision, threads=threads, capture=self._capture
        )

    def load_graph(self, graph: Graph) -> None:
        self.graph = graph
        self._session = None

    def _compute(self, feed: Feed, names: Sequence[str]) -> list[NDArray[Any]]:
        return self._opened().forward(feed, names)

    def forward_quantized(
        self, inputs: Any, output_names: Sequence[str] | None = None, parameters: Mapping[str, Any] | None = None
    ) -> list[torch.Tensor]:
        """The values `output_names` of the quantized model, as tensors with gradients.

        Every config of the graph that is solved is applied: values, weights and biases are quantized and dequantized
        where the exported model would do so; those that are not solved do nothing. Gradients pass straight through
        where a value falls on its grid, and are zero where it saturates.
        inputs: as for `forward`; tensors are taken as they are, gradients and all, and are not checked.
        parameters: tensors to take for constants of the model, by name; their gradients are what is trained.

        Raises as `forward` does, and SettingError for a parameter that is no constant of the model, or has a shape
        other than the constant's.
        """
        names = list(self.graph.output_names if output_names is None else output_names)
        check_names(self.graph, names)
        return self._opened().forward_quantized(inputs, names, parameters or {})

    def forward_block(
        self,
        values: Mapping[str, torch.Tensor],
        output_names: Sequence[str],
        parameters: Mapping[str, torch.Tensor] | None = None,
        scales: Mapping[TensorQuantizationConfig, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """A part of the quantized model: the values `output_names`, made of `values`, as tensors with gradients.

        values: by name what is there already, any values of the main graph; nothing before them runs. They are put on
        their grids as `forward_quantized` would do. The configs are those of the first call for the same names.
        parameters: tensors for constants. scales: tensors for the scales of configs. What either has gradients of is
        what is trained.

        Raises as `forward_quantized` does; ModelError where `values` do not lead to `output_names`.
        """
        check_names(self.graph, [*values, *output_names])
        return self._opened().forward_block(values, output_names, parameters or {}, scales or {})

    @contextmanager
    def collecting(
        self, wanted: Mapping[str, SketchSpec], raw: Mapping[str, RawCallback] | None = None
    ) -> Iterator[Collect]:
        """`collect` for several blocks of samples, one after the other.

        Samples run one after the other. A statistic is taken the moment its value exists, which is then free to go.
        On CUDA nothing waits for the device until all samples are on their way, and `on_step` tells how many are.
        """
        self.report = []
        raw = raw or {}
        names = list(dict.fromkeys([*wanted, *raw]))
        check_names(self.graph, names)
        self._refuse_integer_inputs(wanted)
        for name in wanted:
            kind = self.graph.dtype_of(name)
            if kind is not None and not kind.is_floating_point():
                raise not_floating(name, kind.name)
        session = self._opened()
        session.tell_again()
        mask = self.graph.mask
        masking = None if mask is None else Masking(self.graph, mask, names, self.forward)
        running: list[Collect] = [session.collecting(wanted, raw, self._capture, masking)]

        def collect(samples: Iterable[Feed], on_step: OnStep | None = None) -> Halves:
            if not running:
                raise SettingError("the model is closed: collect inside of the `with` block")
            return running[0](samples, on_step)

        try:
            yield collect
        finally:
            running.clear()  # and with it what it holds on the device

    def _opened(self) -> TorchSession:
        if self._session is None:
            from calibrant.engines.torch.session import TorchSession

            self._session = TorchSession(self.graph, self._device, self._precision, self._threads, self.note)
        return self._session
