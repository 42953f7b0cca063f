"""A deeper convolutional network than the others have, with layers that differ in how badly they are quantized."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant.core import TargetPlatform
from calibrant.engines import OnnxruntimeExecutor
from calibrant.engines.samples import iterate_samples
from calibrant.graph import load_onnx_graph
from calibrant.passes import ParameterQuantizePass
from calibrant.precision.judging import Judge
from calibrant.precision.rebuilding import Found, Models
from calibrant.precision.scoring import Targets
from calibrant.precision.statistics import with_shared_values
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting
from calibrant.table.collecting import collect_table, empty_table

PLATFORM = TargetPlatform.ONNXRUNTIME


def residual_net(blocks=4, channels=8, seed=5, sure=None):
    """`x` to `logits`; with `sure`, to `probabilities`, the Softmax of so many times the logits.

    Stem, `blocks` of depthwise and 1x1 convolutions with a sum around them, a pool, a Gemm.

    The weights of each layer are spread by another factor, so that some lose much more than others.
    """
    rng = np.random.default_rng(seed)
    nodes, weights = [], {}

    def conv(name, x, inputs, outputs, kernel, group=1, relu=True):
        spread = np.exp(rng.normal(0, rng.uniform(0.2, 1.6), (outputs, inputs // group, kernel, kernel)))
        w = rng.normal(0, 1 / np.sqrt(inputs / group * kernel * kernel), spread.shape) * spread
        weights[f"{name}.w"], weights[f"{name}.b"] = w / np.sqrt((spread**2).mean()), rng.normal(0, 0.1, outputs)
        made = [f"{name}.out"]
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [x, f"{name}.w", f"{name}.b"], made, name, group=group, pads=pads))
        if relu:
            nodes.append(helper.make_node("Relu", made, [f"{name}.act"], f"{name}.relu"))
            made = [f"{name}.act"]
        return made[0]

    x = conv("stem", "x", 3, channels, 3)
    for block in range(blocks):
        y = conv(f"deep{block}", x, channels, channels, 3, group=channels)
        y = conv(f"point{block}", y, channels, channels, 1, relu=False)
        nodes.append(helper.make_node("Add", [y, x], [f"sum{block}"], f"add{block}"))
        x = f"sum{block}"
    weights["fc.w"], weights["fc.b"] = rng.normal(0, 0.5, (5, channels)), rng.normal(0, 0.1, 5)
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], ["logits"], "fc", transB=1),
    ]
    if sure is not None:
        weights |= {"fc.w": sure * weights["fc.w"], "fc.b": sure * weights["fc.b"]}
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax"))
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def residual(tmp_path_factory):
    """The file of `residual_net`."""
    path = tmp_path_factory.mktemp("precision") / "residual.onnx"
    onnx.save(residual_net(), path)
    return path


@pytest.fixture(scope="session")
def residual_probabilities(tmp_path_factory):
    """The same, as a classifier that is sure of nearly every answer."""
    path = tmp_path_factory.mktemp("precision") / "probabilities.onnx"
    onnx.save(residual_net(sure=4.0), path)
    return path


@pytest.fixture(scope="session")
def photos():
    """48 samples for it."""
    rng = np.random.default_rng(17)
    return [rng.normal(0, rng.uniform(0.5, 1.5), (1, 3, 12, 12)).astype(np.float32) for _ in range(48)]


def models_of(path, photos, setting):
    """`Models` of that file with everything quantized, and the `Judge` of its SQNR."""
    graph = load_onnx_graph(path)
    quantize_graph(graph, PLATFORM, setting)
    executor = OnnxruntimeExecutor(graph, threads=1)
    feeds = list(iterate_samples(photos, executor.input_specs))
    empty = with_shared_values(empty_table(graph, PLATFORM, ["mse", "percentile", "minmax"], "test"), graph)
    table = collect_table(empty, feeds, executor)
    table = replace(table, sketches=table.apply(graph))
    executor.load_graph(graph)
    ParameterQuantizePass().optimize(graph)
    found = Found.of(graph)
    built = Models(graph, PLATFORM, setting, found, table, 1)
    built.build(frozenset())
    return built, Judge(Targets(sqnr_db=0.0), feeds, executor), executor


@pytest.fixture
def models(residual, photos):
    """`models_of` the residual net."""
    return models_of(residual, photos, QuantizationSetting())
