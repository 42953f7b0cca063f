"""From a quantized graph to the files of a runtime: one target per file, found by its platform in `EXPORTERS`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from calibrant.core import TargetPlatform
from calibrant.exporters import onnxruntime, openvino, ppl_cuda, tensorrt

if TYPE_CHECKING:
    from calibrant.graph import Graph


class Exporter(Protocol):
    """Writes a graph for one runtime; see each target's `export` for what it refuses."""

    def __call__(
        self,
        graph: Graph,
        path: str | Path,
        config_path: str | Path | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write `graph` to `path`, and what the runtime wants beside it to `config_path`; whole or not at all."""


EXPORTERS: dict[TargetPlatform, Exporter] = {
    TargetPlatform.ONNXRUNTIME: onnxruntime.export,
    TargetPlatform.TRT_INT8: tensorrt.export,
    TargetPlatform.OPENVINO_INT8: openvino.export,
    TargetPlatform.PPL_CUDA_INT8: ppl_cuda.export,
}

_CHECKS = {
    TargetPlatform.ONNXRUNTIME: onnxruntime.check,
    TargetPlatform.TRT_INT8: tensorrt.check,
    TargetPlatform.OPENVINO_INT8: openvino.check,
    TargetPlatform.PPL_CUDA_INT8: ppl_cuda.check,
}


def check_plan(graph: Graph) -> None:
    """Raise ExportError for what the exporter of the graph's platform will refuse, whatever the scales will be.

    So that nobody calibrates for nothing. graph: after `quantize_graph`.
    """
    if graph.platform in _CHECKS:
        _CHECKS[graph.platform](graph)


__all__ = ["EXPORTERS", "Exporter", "check_plan"]
