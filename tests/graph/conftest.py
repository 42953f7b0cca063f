from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest

from calibrant.graph import Graph, load_onnx_graph


@pytest.fixture(scope="session")
def run() -> Callable[..., list[np.ndarray]]:
    """What onnxruntime makes of a model."""

    def outputs(model: bytes, **feeds: np.ndarray) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)

    return outputs


@pytest.fixture(scope="session")
def loads_equal(run) -> Callable[..., Graph]:
    """Load a model; the working model must compute what the model computed, and look the same from outside."""

    def check(model: onnx.ModelProto, tolerance: float = 1e-4, **feeds: np.ndarray) -> Graph:
        onnx.checker.check_model(model)
        graph = load_onnx_graph(model)
        working = onnx.load_from_string(graph.to_bytes())
        onnx.checker.check_model(working)
        assert [v.SerializeToString() for v in (*working.graph.input, *working.graph.output)] == [
            v.SerializeToString() for v in (*model.graph.input, *model.graph.output)
        ]
        expected = run(model.SerializeToString(), **feeds)
        for got, want in zip(run(graph.to_bytes(), **feeds), expected, strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, atol=tolerance, rtol=tolerance)
        return graph

    return check
