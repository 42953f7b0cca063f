"""A network with one layer that INT8 cannot hold, and what several tools make of it."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from calibrant.api import export_graph, quantize


def plain_network(damaged=True, names=lambda name: name):
    """Conv-Relu, Conv-Relu, Conv, pool, Gemm: `x` [N,3,12,12] to `y` [N,6].

    damaged: a channel of `conv2` is 1000 times as large, and `conv3` hardly reads it. The function is nearly the same,
    but with one scale for the whole value nothing is left of the other channels.
    """
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.2, 8),
        "w2": rng.normal(0, 0.3, (8, 8, 3, 3)),
        "b2": rng.normal(0, 0.2, 8),
        "w3": rng.normal(0, 0.3, (8, 8, 1, 1)),
        "b3": rng.normal(0, 0.2, 8),
        "w4": rng.normal(0, 0.5, (6, 8)),
        "b4": rng.normal(0, 0.1, 6),
    }
    if damaged:
        weights["w2"][5] *= 1000
        weights["b2"][5] *= 1000
        weights["w3"][:, 5] /= 50_000
    n = names
    nodes = [
        helper.make_node("Conv", [n("x"), n("w1"), n("b1")], [n("c1")], n("conv1"), pads=[1, 1, 1, 1]),
        helper.make_node("Relu", [n("c1")], [n("r1")], n("relu1")),
        helper.make_node("Conv", [n("r1"), n("w2"), n("b2")], [n("c2")], n("conv2"), pads=[1, 1, 1, 1]),
        helper.make_node("Relu", [n("c2")], [n("r2")], n("relu2")),
        helper.make_node("Conv", [n("r2"), n("w3"), n("b3")], [n("c3")], n("conv3")),
        helper.make_node("GlobalAveragePool", [n("c3")], [n("p")], n("pool")),
        helper.make_node("Flatten", [n("p")], [n("f")], n("flatten")),
        helper.make_node("Gemm", [n("f"), n("w4"), n("b4")], [n("y")], n("fc"), transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info(n("x"), TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info(n("y"), TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(v.astype(np.float32), n(k)) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Reader(CalibrationDataReader):
    def __init__(self, samples):
        self.items = iter(samples)

    def get_next(self):
        sample = next(self.items, None)
        return None if sample is None else {"x": sample}


TOOLS = ["calibrant", "qdq", "qdq per channel", "qoperator", "dynamic"]


def quantized_by(tool, model, samples, path):
    """`model` quantized by that tool."""
    if tool == "calibrant":
        graph, _ = quantize(model, samples)
        export_graph(graph, "ONNXRUNTIME", path)
    elif tool == "dynamic":
        quantize_dynamic(model, path)
    else:
        kind = QuantFormat.QOperator if tool == "qoperator" else QuantFormat.QDQ
        quantize_static(model, path, Reader(samples), quant_format=kind, per_channel="channel" in tool)
    return path


def random_samples(number=12):
    rng = np.random.default_rng(5)
    return [rng.normal(0, 1, (1, 3, 12, 12)).astype(np.float32) for _ in range(number)]
