"""A Relu or Clip before Q becomes bounds on the integers behind it, and they are the same integers."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.core import QuantizationStates, TargetPlatform, fake_quantize
from calibrant.exporters import EXPORTERS
from calibrant.exporters.fold import foldable
from calibrant.exporters.onnxruntime import DIALECT
from calibrant.exporters.qdq import insert_qdq

TIES = np.arange(-40, 41) / 8  # multiples of half a step of scale 0.25, and of a quarter step
INPUT = np.concatenate([TIES, np.random.default_rng(0).normal(0, 3, 431)]).astype(np.float32)
GRIDS = [
    {"offset": 0},
    {"signed": True, "offset": -128},
    {"symmetric": True, "offset": 0},
    {"symmetric": True, "offset": 0, "quant_min": -127},
    {"offset": 3},
    {"bits": 4, "offset": 2},
    {"bits": 2, "signed": True, "offset": 0},
]
ENDS = [(0, None), (0, 6), (None, 1.1), (-1.37, 2.2), (None, None), (0.3, 0.3), (2, 60)]


def graph_with(kit, activation, constants, config, readers=()):
    nodes = [kit.node("Abs", ["x"], ["a"], "abs"), activation, kit.node("Neg", ["y"], ["z"], "neg"), *readers]
    outputs = {"z": [INPUT.size]} | {r.output[0]: [INPUT.size] for r in readers}
    model = kit.model_of(nodes, constants, {"x": [INPUT.size]}, outputs)
    return kit.quantized(model, {"y": config}, {}, [], solve=False)


def run(model, path):
    ir.save(model, path)
    return path


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_integers_are_the_same(grid, ends, kit, tmp_path):
    constants = {name: np.float32(end) for name, end in zip(("lo", "hi"), ends, strict=True) if end is not None}
    node = kit.node("Clip", ["a", *(n if n in constants else "" for n in ("lo", "hi"))], ["y"], "clip")
    config = kit.activation(**grid, scale=0.25, state=QuantizationStates.ACTIVATED)
    graph = graph_with(kit, node, constants, config)
    paths = []
    for folds in (True, False):
        model = insert_qdq(graph, replace(DIALECT, folds_activations=folds))
        paths.append(run(model, tmp_path / f"{folds}.onnx"))
        clips = [n for n in model.graph if n.op_type == "Clip" and n.inputs[0].dtype == ir.DataType.FLOAT]
        assert len(clips) == (0 if folds else 1)
    folded, kept = (kit.outputs(path, [{"x": INPUT}])[0] for path in paths)
    np.testing.assert_array_equal(folded, kept)
    low, high = (infinite if end is None else end for infinite, end in zip((-np.inf, np.inf), ends, strict=True))
    clipped = np.clip(np.abs(INPUT), np.float32(low), np.float32(high))
    np.testing.assert_array_equal(folded, -fake_quantize(clipped, config))


@pytest.mark.parametrize(
    ("activation", "grid", "left"),
    [
        ("Relu", {"offset": 0}, 0),
        ("Relu", {"signed": True, "offset": -128}, 0),
        ("Relu", {"symmetric": True, "offset": 0}, 1),
        ("Relu", {"offset": 7}, 1),
        ("Clip", {"offset": 0}, 0),
    ],
)
def test_nothing_is_left_where_the_grid_implies_the_activation(activation, grid, left, kit, tmp_path):
    inputs = ["a"] if activation == "Relu" else ["a", "lo", "hi"]
    constants = {} if activation == "Relu" else {"lo": np.float32(0), "hi": np.float32(6)}
    config = kit.activation(**grid, scale=6 / 255, state=QuantizationStates.ACTIVATED)
    graph = graph_with(kit, kit.node(activation, inputs, ["y"], "act"), constants, config)
    model = insert_qdq(graph, DIALECT)
    assert sum(n.op_type in ("Relu", "Clip") for n in model.graph) == left


def test_an_activation_that_somebody_else_needs_stays(kit):
    config = kit.activation(scale=0.1, offset=0, state=QuantizationStates.ACTIVATED)
    relu = kit.node("Relu", ["a"], ["y"], "relu")
    assert foldable(graph_with(kit, relu, {}, config).value("y"), config) is not None
    reader = kit.node("Sqrt", ["a"], ["other"], "sqrt")  # reads the value before the Relu
    assert foldable(graph_with(kit, relu, {}, config, [reader]).value("y"), config) is None
    clip = kit.node("Clip", ["a", "lo"], ["y"], "clip")
    assert foldable(graph_with(kit, clip, {"lo": np.float32(0)}, config).value("y"), config) is not None
    crossed = kit.node("Clip", ["a", "lo", "hi"], ["y"], "clip")
    ends = {"lo": np.float32(3), "hi": np.float32(2)}
    assert foldable(graph_with(kit, crossed, ends, config).value("y"), config) is None
    other = kit.node("Sqrt", ["a"], ["y"], "sqrt")
    assert foldable(graph_with(kit, other, {}, config).value("y"), config) is None


def test_16_bit_integers_have_no_clip_so_the_activation_stays(kit, tmp_path):
    config = kit.activation(bits=16, scale=0.001, offset=0, state=QuantizationStates.ACTIVATED)
    graph = graph_with(kit, kit.node("Relu", ["a"], ["y"], "relu"), {}, config)
    EXPORTERS[TargetPlatform.ONNXRUNTIME](graph, tmp_path / "q.onnx")
    assert "Relu" in {n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node}
