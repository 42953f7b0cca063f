"""A quantized graph, simulated: every value on its grid, the arithmetic between in float."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from calibrant.engines.samples import Feed
from calibrant.exporters.files import save_model
from calibrant.exporters.onnxruntime import DIALECT
from calibrant.exporters.qdq import insert_qdq
from calibrant.exporters.readiness import check_ready
from calibrant.graph import Graph


class Simulation:
    """Runs a quantized graph as its configs say, whatever platform it is for.

    With onnxruntime and float kernels: integer ones saturate on some processors, and are not to be had for every grid.
    threads: of onnxruntime; None: all. outputs: names of the values that `run` gives, any of the main graph's; None:
    the model's outputs. Raises StateError for a graph that is not calibrated.
    """

    def __init__(self, graph: Graph, threads: int | None = None, outputs: Sequence[str] | None = None) -> None:
        check_ready(graph)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with TemporaryDirectory(prefix="calibrant-", ignore_cleanup_errors=True) as folder:
            place = Path(folder) / "simulated.onnx"
            model = insert_qdq(graph, DIALECT)
            if outputs is not None:
                _expose(model, outputs)
            save_model(model, place)
            self._session = ort.InferenceSession(place, options, providers=["CPUExecutionProvider"])

    def run(self, feed: Feed) -> list[NDArray[Any]]:
        """The outputs, in order, for one sample."""
        return list(self._session.run(None, feed))


def _expose(model: ir.Model, names: Sequence[str]) -> None:
    """Make these values the outputs of `model`."""
    made = {value.name: value for node in model.graph for value in node.outputs}
    made |= {value.name: value for value in model.graph.inputs}
    model.graph.outputs[:] = [made[name] for name in names]
