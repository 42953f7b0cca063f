"""A tiny model, photos for it, and the command run in a folder of its own."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from calibrant.cli.app import app

OPSET = 17


def make_model(nodes, inputs, outputs, weights=(), domains=()):
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [numpy_helper.from_array(w, n) for n, w in weights])
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def conv_net():
    """3 x 16 x 16 -> 5: Conv, Relu, GlobalAveragePool, Flatten, Gemm."""
    rng = np.random.default_rng(0)
    weights = {
        "conv.w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "conv.b": rng.normal(size=8).astype(np.float32),
        "fc.w": rng.normal(size=(5, 8)).astype(np.float32),
        "fc.b": rng.normal(size=5).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.w", "conv.b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["y"], name="fc", transB=1),
    ]
    return make_model(nodes, [info("x", ["N", 3, 16, 16])], [info("y", ["N", 5])], weights.items())


def log_net():
    """Log and a Gemm: NaN for negative values, -Inf for zeros."""
    weight = np.ones((4, 2), np.float32)
    nodes = [
        helper.make_node("Log", ["x"], ["logs"], name="log"),
        helper.make_node("Gemm", ["logs", "w"], ["y"], name="fc"),
    ]
    return make_model(nodes, [info("x", ["N", 4])], [info("y", ["N", 2])], [("w", weight)])


def unrunnable_net():
    weight = np.ones((4, 2), np.float32)
    nodes = [
        helper.make_node("NoSuchOp", ["x"], ["odd"], name="odd", domain="not.there"),
        helper.make_node("Gemm", ["odd", "w"], ["y"], name="fc"),
    ]
    return make_model(nodes, [info("x", ["N", 4])], [info("y", ["N", 2])], [("w", weight)], domains=["not.there"])


def float_net():
    """Nothing here is worth quantizing."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], name="softmax")]
    return make_model(nodes, [info("x", ["N", 4])], [info("y", ["N", 4])])


def two_input_net():
    """Tokens and a mask, both int64, looked up, multiplied and projected."""
    rng = np.random.default_rng(1)
    weights = {"table": rng.normal(size=(10, 4)).astype(np.float32), "w": rng.normal(size=(4, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("Unsqueeze", ["mask", "last"], ["m"], name="widen"),
        helper.make_node("Cast", ["m"], ["mf"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["e", "mf"], ["h"], name="mul"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="project"),
    ]
    inputs = [info("ids", ["N", "T"], TensorProto.INT64), info("mask", ["N", "T"], TensorProto.INT64)]
    weights["last"] = np.array([-1], np.int64)
    return make_model(nodes, inputs, [info("y", ["N", "T", 3])], weights.items())


class Here:
    """The current folder of a test: a model, photos, and the command. `run` gives the CliRunner's result."""

    def __init__(self, folder):
        self.folder = folder

    def __truediv__(self, name):
        return self.folder / name

    def save(self, name, model):
        """Write one of the models above."""
        makers = {"conv": conv_net, "log": log_net, "odd": unrunnable_net, "float": float_net, "two": two_input_net}
        onnx.save(makers[model](), self / name)

    def photo(self, name, seed=0, size=(20, 24)):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        (self.folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(self.folder / name)

    def files(self):
        return sorted(p.name for p in self.folder.iterdir() if p.name != "__pycache__")

    def run(self, *args):
        return CliRunner().invoke(app, [str(a) for a in args])

    def check_refused(self, result, code, *words):
        """Assert that the command ended so: all of `words` in one line of error, and no traceback."""
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert result.exit_code == code, result.output
        assert len(errors) == 1, result.output
        assert "Traceback" not in result.output
        for word in words:
            assert word in errors[0], errors[0]

    def quantize(self, *args, model="model.onnx", data="photos", output="out.onnx"):
        return self.run("quantize", model, "--data", data, "--output", output, *args)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Here(tmp_path)
    here.save("model.onnx", "conv")
    for i in range(16):
        here.photo(f"photos/{i:02}.png", i)
    return here
