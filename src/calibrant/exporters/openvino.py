"""Q/DQ ONNX that OpenVINO reads and turns into its own FakeQuantize and low-precision ops.

Source: OpenVINO documentation, "OpenVINO Low Precision Transformations" (QuantizeLinear/DequantizeLinear of ONNX are
read as FakeQuantize; weights as integer constants behind Convert, Subtract, Multiply) and its ONNX frontend.
Relu and Clip stay where they are: OpenVINO fuses them itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.core import ExportError, TargetPlatform
from calibrant.exporters.dialect import Dialect, GridClip
from calibrant.exporters.readiness import activation_configs, parameter_configs
from calibrant.exporters.target import check_qdq, export_qdq

if TYPE_CHECKING:
    from calibrant.graph import Graph

DIALECT = Dialect(TargetPlatform.OPENVINO_INT8, GridClip.FLOAT, integer_bias=False)


def export(
    graph: Graph, path: str | Path, config_path: str | Path | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the Q/DQ model for OpenVINO to `path`, whole or not at all. Up to 8 bits; biases stay in float.

    Raises ExportError for more bits and for rounding other than half to even, StateError for a scale that is missing
    or stale.
    """
    check(graph)
    export_qdq(graph, DIALECT, path, config_path, metadata)


def check(graph: Graph) -> None:
    """Raise ExportError for what the file cannot say, whatever the scales will be."""
    wide = [n for n, c in activation_configs(graph) if c.num_of_bits > 8]
    wide += [f"{n.name} input {i}" for n, i, c in parameter_configs(graph) if c.num_of_bits > 8 and not c.is_bias]
    if wide:
        raise ExportError(f"OPENVINO_INT8 takes up to 8 bits, '{wide[0]}' has more: set num_of_bits to 8 or less")
    check_qdq(graph, DIALECT)
