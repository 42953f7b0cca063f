"""The float model, cleaned for quantization, and the quantization configs on its values."""

from calibrant.graph.graph import Graph, ScaleGroup
from calibrant.graph.load import load_onnx_graph

__all__ = ["Graph", "ScaleGroup", "load_onnx_graph"]
