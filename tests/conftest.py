"""A small convolutional classifier and its samples, for the tests that need a whole road."""

import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

# Read when triton is imported, so it comes first. `make test-gpu` sets it to 0.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Processes share the processors: threads of PyTorch beside them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run; `--hypothesis-profile=default` looks for others.
hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def same_random_numbers(request: pytest.FixtureRequest) -> None:
    """A test draws the same numbers whatever ran before it: processes share the tests, and take them in any order."""
    if rng := getattr(request.module, "RNG", None):
        rng.bit_generator.state = np.random.default_rng(20).bit_generator.state
    if torch := sys.modules.get("torch"):
        torch.manual_seed(20)


def small_classifier() -> onnx.ModelProto:
    """Conv-Relu, depthwise Conv-Clip, Conv + residual Add, pool, Gemm: `x` [N,3,16,16] to `logits` [N,5]."""
    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.2, 8),
        "w2": rng.normal(0, 0.4, (8, 1, 3, 3)),
        "b2": rng.normal(0, 0.2, 8),
        "w3": rng.normal(0, 0.3, (8, 8, 1, 1)),
        "b3": rng.normal(0, 0.2, 8),
        "w4": rng.normal(0, 0.5, (5, 8)),
        "b4": rng.normal(0, 0.1, 5),
        "zero": np.array(0),
        "six": np.array(6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"], "clip2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], "conv3"),
        helper.make_node("Add", ["c3", "r1"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w4", "b4"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="author", value="us")
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """The file of `small_classifier`."""
    path = tmp_path / "small.onnx"
    onnx.save(small_classifier(), path)
    return path


@pytest.fixture(scope="session")
def small_samples() -> list[np.ndarray]:
    """40 samples for it, each [1, 3, 16, 16]."""
    rng = np.random.default_rng(11)
    return [rng.normal(0, 1, (1, 3, 16, 16)).astype(np.float32) for _ in range(40)]
