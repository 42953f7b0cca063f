"""Small models, and what plain onnxruntime makes of them."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant.graph import Graph, load_onnx_graph
from calibrant.sketches import SketchSpec, TensorSketch

ELEMENTWISE = """
<ir_version: 8, opset_import: ["" : 17]>
elementwise (float[N, 4] x, float[N, 1] y) => (float[N, 4] out) {
    sum = Add(x, y)
    product = Mul(sum, x)
    out = Tanh(product)
}
"""


def parse(text: str) -> Graph:
    """The graph of a model in ONNX's text form, values as named there."""
    return load_onnx_graph(onnx.parser.parse_model(text), simplify=False)


def convolutions(channels: Iterable[int] = (3, 20, 33, 8, 16, 1)) -> Graph:
    """Conv + Relu from each number of channels to the next: `x` [N, channels[0], H, W] to `r1`, `r2`, ..."""
    rng = np.random.default_rng(5)
    sizes = list(channels)
    nodes, weights, last = [], [], "x"
    for i, (before, after) in enumerate(pairwise(sizes), 1):
        values = rng.normal(0, before**-0.5, (after, before, 3, 3)), rng.normal(0, 0.3, after)
        weights += [numpy_helper.from_array(v.astype(np.float32), f"{k}{i}") for k, v in zip("wb", values, strict=True)]
        nodes.append(helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        last = f"r{i}"
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", sizes[0], "H", "W"])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", sizes[-1], "H", "W"])],
        weights,
    )
    return load_onnx_graph(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), simplify=False
    )


def images(shapes: Iterable[tuple[int, ...]], seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Samples `x` of these shapes."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for shape in shapes]


def sketches_of(graph: Graph, samples: Iterable[dict[str, np.ndarray]], wanted: dict[str, SketchSpec]) -> dict:
    """What `collect` must give: every value an output of plain onnxruntime, each batch added to its sketch."""
    model = onnx.load_from_string(graph.to_bytes())
    inputs = {value.name for value in model.graph.input}
    names = [name for name in wanted if name not in inputs]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # as `collect` runs a sample
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sketches = {name: TensorSketch.empty(spec) for name, spec in wanted.items()}
    for feed in samples:
        values = dict(zip(names, session.run(names, feed), strict=True)) | feed
        for name, spec in wanted.items():
            sketches[name] = sketches[name].merge(TensorSketch.of(values[name], spec))
    return sketches


@pytest.fixture
def models() -> dict[str, Callable]:
    """The functions of this file: `--import-mode=importlib` leaves no other way to share them."""
    return {"parse": parse, "convolutions": convolutions, "images": images, "sketches_of": sketches_of}


@pytest.fixture
def elementwise() -> Graph:
    """`x` [N,4] and `y` [N,1] to sum, product, out; every row for itself."""
    return parse(ELEMENTWISE)
