"""Q/DQ ONNX for onnxruntime, which turns it into integer ops when it loads the model.

Source: onnxruntime docs, "Quantize ONNX models", and its QDQ optimizers (core/optimizer/qdq_transformer), read for
1.32: a computing op fuses when DequantizeLinear stands before each of its inputs and QuantizeLinear right behind it.
- Conv, Gemm: bias int32 with scale = input scale x weight scale, which the integer op takes for granted.
- MatMul needs no Q behind it (MatMulIntegerToFloat). All of an op's activations must have the same integer type.
- A Relu or Clip between the op and Q is left out by onnxruntime only if the whole integer type implies it; we leave
  it out wherever the integers can be clipped instead (see `fold`), so that symmetric and narrow grids fuse as well.
- A Conv or Gemm with a float weight between Q/DQ gets an integer weight from it, and its integer kernels cannot read
  what has a scale per channel; `in_float` keeps it from both.
- On x86 it turns int8 activations into uint8, but not where a value has two readers: a model with int8 activations
  and residual connections then runs partly in float. uint8 fuses everywhere; for int8, set the session's config entry
  session.qdqisint8allowed to 1.

The model with onnxruntime's optimizations off is the simulation, with them on the integer run. Each integer op gives
what exact arithmetic gives, but for values within about 1e-5 of a step from a rounding tie; those may fall one step
lower or higher, as they may in the simulation, whose sums are float32. ExactSimulationPass keeps convolutions, matrix
products with weights, and sums away from ties: there the two are equal, bit for bit. For the others (products of two
activations, Sigmoid and the like; any op without that pass) it is the only difference between the two, which a deep
network amplifies from layer to layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.core import TargetPlatform
from calibrant.exporters.dialect import Dialect, GridClip
from calibrant.exporters.target import check_qdq, export_qdq

if TYPE_CHECKING:
    from calibrant.graph import Graph

DIALECT = Dialect(
    TargetPlatform.ONNXRUNTIME, GridClip.INTEGER, folds_activations=True, contrib_16_bits=True, overreaches=True
)


def export(
    graph: Graph, path: str | Path, config_path: str | Path | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the Q/DQ model for onnxruntime to `path`, whole or not at all.

    2 to 16 bits, signed or unsigned, symmetric or not, per tensor or per channel. 16 bits below opset 21: the Q/DQ ops
    of domain com.microsoft. config_path: refused, the model says everything.
    Raises StateError for a scale that is missing or stale, ExportError for a rounding policy of an activation other
    than ROUND_HALF_EVEN and for a file that cannot be written.
    """
    export_qdq(graph, DIALECT, path, config_path, metadata)


def check(graph: Graph) -> None:
    """Raise ExportError for what the file cannot say, whatever the scales will be."""
    check_qdq(graph, DIALECT)
