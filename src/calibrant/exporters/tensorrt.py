"""Q/DQ ONNX for TensorRT (explicit quantization).

Source: NVIDIA TensorRT documentation, "Working with Quantized Types" and "Explicit Quantization": int8, symmetric,
zero point 0; activations per tensor, weights per tensor or per channel; Q/DQ in front of the inputs of Conv, Gemm,
MatMul and of the shortcut of an Add; a bias is not quantized (its Q/DQ would be refused). "Quantized Weights":
pre-quantized weights are int8 constants with a DequantizeLinear between them and the op.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.core import ExportError, TargetPlatform, TensorQuantizationConfig
from calibrant.exporters.dialect import Dialect, GridClip
from calibrant.exporters.readiness import activation_configs, parameter_configs
from calibrant.exporters.target import check_qdq, export_qdq

if TYPE_CHECKING:
    from calibrant.graph import Graph

DIALECT = Dialect(TargetPlatform.TRT_INT8, GridClip.NONE, integer_bias=False)


def export(
    graph: Graph, path: str | Path, config_path: str | Path | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the Q/DQ model for TensorRT to `path`, whole or not at all.

    A grid of -127..127 has no Clip that keeps it: TensorRT saturates at -128, one step further out.
    Raises ExportError for what TensorRT does not take (other widths, asymmetric or unsigned grids, scales per channel
    of an activation, rounding other than half to even), StateError for a scale that is missing or stale.
    """
    check(graph)
    export_qdq(graph, DIALECT, path, config_path, metadata)


def check(graph: Graph) -> None:
    """Raise ExportError for what TensorRT does not take, whatever the scales will be."""
    for name, config in activation_configs(graph):
        _check(name, config)
        if config.is_per_channel:
            raise ExportError(f"TRT_INT8 takes one scale per activation, '{name}' is PER_CHANNEL: make it PER_TENSOR")
    for node, index, config in parameter_configs(graph):
        if not config.is_bias:
            _check(f"{node.name} input {index}", config)
    check_qdq(graph, DIALECT)


def _check(name: str, config: TensorQuantizationConfig) -> None:
    if not config.is_symmetric or not config.is_signed:
        raise ExportError(
            f"TRT_INT8 takes symmetric signed grids with zero point 0, '{name}' has [{config.quant_min}, "
            f"{config.quant_max}], {'symmetric' if config.is_symmetric else 'asymmetric'}: quantize for TRT_INT8"
        )
    if config.num_of_bits != 8 or config.quant_max != 127 or config.quant_min not in (-127, -128):
        raise ExportError(
            f"TRT_INT8 takes 8 bits, -127..127 or -128..127; '{name}' has {config.num_of_bits} bits, "
            f"[{config.quant_min}, {config.quant_max}]"
        )
