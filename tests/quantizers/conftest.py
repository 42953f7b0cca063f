from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from calibrant.core import TargetPlatform
from calibrant.graph import Graph, load_onnx_graph
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting


def build(text: str, weights: dict[str, object], opset: int = 17) -> onnx.ModelProto:
    """A model of that text. weights: an array, or a shape to fill with random numbers."""
    rng = np.random.default_rng(5)
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ' + text)
    for name, content in weights.items():
        array = rng.normal(size=content).astype(np.float32) if isinstance(content, tuple) else np.asarray(content)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.fixture(scope="session")
def quantized() -> Callable[..., Graph]:
    """A model of that text, quantized: `quantized(text, platform, setting, weight=(shape), ...)`."""

    def make(
        text: str, platform: str = "ONNXRUNTIME", setting: QuantizationSetting | None = None, **weights: object
    ) -> Graph:
        graph = load_onnx_graph(build(text, weights))
        quantize_graph(graph, TargetPlatform.of(platform), setting or QuantizationSetting())
        check_consistent(graph)
        return graph

    return make


def check_consistent(graph: Graph) -> None:
    """What every quantized graph keeps: no scale twice, no value twice, edges and configs that exist."""
    assert len({id(g.config) for g in graph.groups}) == len(graph.groups)
    values = [v for g in graph.groups for v in g.values]
    assert len(values) == len(set(values))
    configs = {id(g.config): g for g in graph.groups}
    for name, config in graph.configs.items():
        assert name in configs[id(config)].values
    for group in graph.groups:
        assert group.roots
        assert set(group.roots) <= set(group.values)
        assert group.config.state.name == "INITIAL"
        placed = any(graph.config_of(v) is group.config for v in group.values)
        assert placed or any(c is group.config for c in graph.edges.values())
    for (node, index), config in graph.edges.items():
        value = graph.input_of(node, index)
        if graph.is_parameter(value):
            assert config.state.name in ("INITIAL", "PASSIVE_INIT")
        elif config.state.name != "FP32":
            assert value in configs[id(config)].values
    for node, reason in graph.left_in_float.items():
        assert graph.node(node)
        assert reason


@pytest.fixture
def setting() -> QuantizationSetting:
    return QuantizationSetting()
