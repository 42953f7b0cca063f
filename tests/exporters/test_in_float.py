"""A weight in float between quantized values: onnxruntime would quantize it, were it not kept from that."""

import numpy as np
import onnx
import pytest

from calibrant.api import export_graph, quantize
from calibrant.settings import QuantizationSetting

IMAGE, MADE = [1, 4, 6, 6], [1, 3, 6, 6]


def conv(kit):
    return [kit.node("Conv", ["r", "w"], ["y"], "op")], (3, 4, 1, 1), IMAGE, MADE


def conv_and_relu(kit):
    nodes = [kit.node("Conv", ["r", "w", "b"], ["c"], "op"), kit.node("Relu", ["c"], ["y"], "relu")]
    return nodes, (3, 4, 1, 1), IMAGE, MADE


def conv_behind_a_pool(kit):
    pool = kit.node("MaxPool", ["r"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    return [pool, kit.node("Conv", ["pooled", "w"], ["y"], "op")], (3, 4, 1, 1), IMAGE, [1, 3, 3, 3]


def conv_of_one_channel(kit):
    return [kit.node("Conv", ["r", "w"], ["y"], "op")], (3, 1, 1, 1), [1, 1, 6, 6], MADE


def transposed(kit):
    return [kit.node("ConvTranspose", ["r", "w"], ["y"], "op")], (4, 3, 1, 1), IMAGE, MADE


def gemm(kit):
    return [kit.node("Gemm", ["r", "w", "b"], ["y"], "op")], (4, 3), [5, 4], [5, 3]


CASES = [conv, conv_and_relu, conv_behind_a_pool, conv_of_one_channel, transposed, gemm]


def in_float(case, kit, opset):
    """r = Relu(x), and y, made of r by a weight in float that is small but for one output. Both are quantized."""
    rng = np.random.default_rng(4)
    nodes, shape, read, made = case(kit)
    of_outputs = [3 if size == 3 else 1 for size in shape]
    weight = (rng.normal(size=shape) * np.array([1, 1e-3, 1e-3]).reshape(of_outputs)).astype(np.float32)
    constants = {"w": weight} | ({"b": np.float32([0.1, 1e-4, 1e-4])} if "b" in nodes[0].input else {})
    nodes = [kit.node("Relu", ["x"], ["r"], "first"), *nodes]
    model = kit.model_of(nodes, constants, {"x": read}, {"y": made}, opset)
    samples = [{"x": rng.normal(size=read).astype(np.float32)} for _ in range(4)]
    values = {"r": kit.activation(), "y": kit.activation(bits=16)}  # so fine that it shows the small outputs
    return kit.quantized(model, values, {}, samples), samples


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("case", CASES)
def test_it_runs_in_float(case, opset, kit, tmp_path):
    graph, samples = in_float(case, kit, opset)
    export_graph(graph, "ONNXRUNTIME", tmp_path / "q.onnx")
    simulated, run = (kit.outputs(tmp_path / "q.onnx", samples, optimized) for optimized in (False, True))
    np.testing.assert_allclose(run, simulated, atol=1.01 * graph.config_of("y").scale)


def test_only_what_is_in_float_is_kept(kit, small_model, small_samples, tmp_path):
    """Two of three Convs are integer ones as before; the one in the middle is not."""
    setting = QuantizationSetting()
    setting.leave_in_float = ["conv2"]
    graph, _ = quantize(small_model, small_samples, setting=setting, threads=1)
    export_graph(graph, "ONNXRUNTIME", tmp_path / "q.onnx")
    kit.session(tmp_path / "q.onnx", True, tmp_path / "optimized.onnx")
    ops = kit.op_types(tmp_path / "optimized.onnx")
    assert (ops["QLinearConv"], ops["Conv"] + ops["FusedConv"], ops["Max"]) == (2, 1, 1), ops
    names = [node.name for node in onnx.load(tmp_path / "q.onnx").graph.node if node.op_type == "Max"]
    assert names == ["conv2_InFloat"]
