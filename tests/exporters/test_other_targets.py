"""TensorRT, OpenVINO and PPL: what each wants, and what each refuses."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.core import ExportError, QuantizationStates, TargetPlatform, fake_quantize, quantize
from calibrant.engines.saturation import sums_saturate
from calibrant.exporters import EXPORTERS
from calibrant.exporters.ppl_cuda import baked

TRT, OPENVINO, PPL = (
    EXPORTERS[p] for p in (TargetPlatform.TRT_INT8, TargetPlatform.OPENVINO_INT8, TargetPlatform.PPL_CUDA_INT8)
)


@pytest.fixture
def symmetric(kit, small_graph):
    """The small classifier with symmetric int8 activations."""
    return small_graph(lambda: kit.activation(symmetric=True, quant_min=-127))


def test_tensorrt_is_symmetric_with_bias_and_activations_in_float(symmetric, kit, tmp_path, samples):
    TRT(symmetric, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = tensors[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    assert {f"b{i}" for i in range(1, 5)} <= set(tensors)
    assert not [name for name, t in tensors.items() if t.dtype == np.int32]
    ops = kit.op_types(tmp_path / "q.onnx")
    assert (ops["Relu"], ops["Clip"]) == (1, 1)  # TensorRT fuses them, and keeps no grid by a Clip
    run = kit.outputs(tmp_path / "q.onnx", samples[:5])
    expected = [kit.every_value(symmetric, s, simulate=True)["logits"] for s in samples[:5]]
    np.testing.assert_allclose(run, expected, atol=1.1 * symmetric.config_of("logits").scale)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "symmetric signed"),
        ({"symmetric": True, "bits": 16}, "8 bits"),
        ({"symmetric": True, "bits": 4}, "8 bits"),
        ({"symmetric": True, "quant_min": -100}, "8 bits"),
    ],
)
def test_tensorrt_refuses_other_grids(config, message, kit, small_graph, tmp_path):
    with pytest.raises(ExportError, match=f"TRT_INT8.*{message}"):
        TRT(small_graph(lambda: kit.activation(**config)), tmp_path / "q.onnx")


def test_tensorrt_refuses_weights_of_other_widths(kit, small_graph, tmp_path):
    graph = small_graph(lambda: kit.activation(symmetric=True), bits=4)
    with pytest.raises(ExportError, match=r"conv1 input 1.*4 bits"):
        TRT(graph, tmp_path / "q.onnx")


def test_tensorrt_refuses_scales_per_channel_of_an_activation(kit, symmetric, tmp_path):
    per_channel = kit.activation(symmetric=True, channel_axis=1, scale=np.ones(8), offset=np.zeros(8))
    per_channel.state = QuantizationStates.ACTIVATED
    symmetric.edges["add", 0] = per_channel
    with pytest.raises(ExportError, match="'c3' is PER_CHANNEL"):
        TRT(symmetric, tmp_path / "q.onnx")


@pytest.mark.parametrize("platform", [TargetPlatform.ONNXRUNTIME, TargetPlatform.OPENVINO_INT8])
@pytest.mark.parametrize(
    "grid",
    [
        {"offset": 7},
        {"bits": 4, "offset": 7},
        {"bits": 3, "signed": True, "offset": -4},
        {"symmetric": True, "quant_min": -127, "offset": 0},
        {"bits": 12, "offset": 5},
        {"bits": 12, "symmetric": True, "offset": 0},
    ],
)
def test_what_lies_beyond_the_grid_saturates_at_its_ends(grid, platform, kit, tmp_path):
    if platform is TargetPlatform.OPENVINO_INT8 and grid.get("bits", 8) > 8:
        pytest.skip("OPENVINO_INT8 takes up to 8 bits")
    x = np.linspace(-3000, 3000, 4001, dtype=np.float32)
    model = kit.model_of([kit.node("Neg", ["x"], ["y"], "neg")], {}, {"x": [x.size]}, {"y": [x.size]})
    config = kit.activation(**grid, scale=0.3, state=QuantizationStates.ACTIVATED)
    EXPORTERS[platform](kit.quantized(model, {"x": config}, {}, [], solve=False), tmp_path / "q.onnx")
    got = kit.outputs(tmp_path / "q.onnx", [{"x": x}])[0]
    np.testing.assert_array_equal(got, -fake_quantize(x, config))


@pytest.mark.parametrize("grid", [{}, {"symmetric": True}, {"bits": 4}])
def test_openvino_runs_it_on_integers(grid, kit, small_graph, samples, tmp_path):
    openvino = pytest.importorskip("openvino", reason="the openvino wheel is not installed")
    weights = {"most": 64} if sums_saturate() else {}  # OpenVINO has no other way to exact sums there
    graph = small_graph(lambda: kit.activation(**grid), **weights)
    OPENVINO(graph, tmp_path / "q.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "q.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    got = [compiled(s["x"])[compiled.output(0)] for s in samples[:10]]
    expected = kit.outputs(tmp_path / "q.onnx", samples[:10])
    assert np.abs(np.subtract(got, expected)).max() < 1.01 * graph.config_of("logits").scale
    if grid == {}:
        infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
        convolutions = [i["runtimePrecision"].astype(str) for i in infos if i["layerType"].astype(str) == "Convolution"]
        assert convolutions == ["u8"] * 3


def test_openvino_refuses_more_than_8_bits(kit, small_graph, tmp_path):
    with pytest.raises(ExportError, match=r"OPENVINO_INT8.*8 bits"):
        OPENVINO(small_graph(lambda: kit.activation(bits=16)), tmp_path / "q.onnx")


def test_ppl_writes_a_float_model_and_its_parameters(kit, symmetric, small_model, samples, tmp_path):
    PPL(symmetric, tmp_path / "q.onnx", metadata={"setting": "{}"})
    assert "QuantizeLinear" not in kit.op_types(tmp_path / "q.onnx")
    float_model, model = onnx.load(small_model), onnx.load(tmp_path / "q.onnx")
    assert [n.name for n in model.graph.node] == [n.name for n in float_model.graph.node]
    document = json.loads((tmp_path / "q.json").read_text())
    values = document["quant_info"]
    assert set(values) == {"x", "r1", "r2", "c3", "sum", "pooled", "flat", "logits", "w1", "w2", "w3", "w4"}
    entry = values["r1"]
    scale = float(symmetric.config_of("r1").scale)
    assert entry | {"hash": 0, "dominator": 0} == {
        "bit_width": 8, "per_channel": False, "quant_flag": True, "sym": True, "scale": scale, "zero_point": 0,
        "tensor_min": pytest.approx(-127 * scale), "tensor_max": pytest.approx(127 * scale),
        "q_min": -127, "q_max": 127,
        "hash": 0, "dominator": 0,
    }  # fmt: skip
    assert len(values["w1"]["scale"]) == len(values["w1"]["zero_point"]) == 8
    assert values["flat"]["hash"] == values["pooled"]["hash"] != values["x"]["hash"]
    assert set(document["op_info"]) == {n.name for n in model.graph.node}
    assert set(map(str, document["op_info"].values())) == {"{'data_type': 'INT8'}"}


def test_ppl_weights_are_what_their_integers_stand_for(symmetric, small_model):
    config = symmetric.edges["conv1", 1]
    w = symmetric.value("w1").const_value.numpy()
    stored = baked(symmetric).graph.initializers["w1"].const_value.numpy()
    assert not np.array_equal(stored, w)
    np.testing.assert_array_equal(quantize(stored, config), quantize(w, config))
    assert isinstance(symmetric.model, ir.Model)
    np.testing.assert_array_equal(symmetric.value("w1").const_value.numpy(), w)  # the graph keeps its floats


def test_ppl_leaves_out_what_stays_in_float(kit, symmetric, tmp_path):
    symmetric.left_in_float["flatten"] = "the user said so"
    PPL(symmetric, tmp_path / "q.onnx", tmp_path / "parameters.txt")
    document = json.loads((tmp_path / "parameters.txt").read_text())
    assert "flatten" not in document["op_info"]
    assert not (tmp_path / "q.json").exists()


def test_ppl_refuses_what_its_file_cannot_say(kit, symmetric, small_graph, tmp_path):
    with pytest.raises(ExportError, match=r"PPL_CUDA_INT8.*symmetric signed.*'x'"):
        PPL(small_graph(), tmp_path / "q.onnx")
    symmetric.edges["add", 1] = kit.activation(symmetric=True, scale=1, offset=0, state=QuantizationStates.ACTIVATED)
    with pytest.raises(ExportError, match="'r1' is read with two"):
        PPL(symmetric, tmp_path / "q.onnx")
    assert list(tmp_path.glob("q.*")) == []
