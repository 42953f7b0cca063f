"""Small quantized graphs, their simulation in numpy, and onnxruntime with and without its optimizations."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibrant import load_onnx_graph
from calibrant.core import QuantizationProperty as P
from calibrant.core import QuantizationStates, TensorQuantizationConfig, affine, fake_quantize
from calibrant.graph import Graph, ScaleGroup
from calibrant.passes.parameter import ParameterQuantizePass
from calibrant.passes.passive import PassiveParameterQuantizePass
from tests.runtime import opened

FLOAT_STATES = (QuantizationStates.FP32, QuantizationStates.OVERLAPPED)


def activation(symmetric: bool = False, bits: int = 8, signed: bool = False, **more) -> TensorQuantizationConfig:
    """A config for an activation; the whole grid of that many bits."""
    low = -(1 << (bits - 1)) if signed or symmetric else 0
    policy = P.LINEAR | (P.SYMMETRICAL if symmetric else P.ASYMMETRICAL)
    policy |= P.PER_CHANNEL if "channel_axis" in more else P.PER_TENSOR
    arguments = {"num_of_bits": bits, "quant_min": low, "quant_max": low + (1 << bits) - 1} | more
    return TensorQuantizationConfig(policy, **arguments)


def weight(axis: int | None = 0, bits: int = 8, most: int | None = None, **more) -> TensorQuantizationConfig:
    """A config for a weight: symmetric and narrow, per channel unless the axis is None. most: its largest integer."""
    policy = P.LINEAR | P.SYMMETRICAL | (P.PER_TENSOR if axis is None else P.PER_CHANNEL)
    most = most or (1 << (bits - 1)) - 1
    return TensorQuantizationConfig(
        policy, num_of_bits=bits, quant_min=-most, quant_max=most, channel_axis=axis, **more
    )


def bias(axis: int | None = 0) -> TensorQuantizationConfig:
    """A config for a bias that waits for the scales it follows from."""
    policy = P.LINEAR | P.SYMMETRICAL | (P.PER_TENSOR if axis is None else P.PER_CHANNEL)
    return TensorQuantizationConfig(
        policy,
        num_of_bits=32,
        quant_min=-(2**31),
        quant_max=2**31 - 1,
        channel_axis=axis,
        state=QuantizationStates.PASSIVE_INIT,
    )


def in_float() -> TensorQuantizationConfig:
    """For a reader that takes the float value."""
    return activation(state=QuantizationStates.FP32)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    initializers: Mapping[str, np.ndarray],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    opset: int = 17,
) -> onnx.ModelProto:
    """A checked model of float32 inputs and outputs."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in each.items()]
        for each in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in initializers.items()]
    graph = helper.make_graph(nodes, "g", *infos, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantized(
    model: onnx.ModelProto,
    values: Mapping[str, TensorQuantizationConfig],
    edges: Mapping[tuple[str, int], TensorQuantizationConfig],
    samples: Sequence[Mapping[str, np.ndarray]],
    solve: bool = True,
) -> Graph:
    """A graph with these configs, calibrated by minmax; values with the same config object share a scale."""
    graph = load_onnx_graph(model, simplify=False)
    groups: dict[int, ScaleGroup] = {}
    for name, config in values.items():
        group = groups.setdefault(id(config), ScaleGroup(config))
        group.values.append(name)
        group.roots.append(name)
        graph.configs[name] = config
    graph.groups, graph.edges = list(groups.values()), dict(edges)
    if solve:
        floats = [every_value(graph, sample) for sample in samples]
        for name, config in [(n, c) for g in graph.groups for n, c in [(g.values, g.config)]]:
            solve_minmax(config, [f[v] for f in floats for v in name])
        for (node, index), config in graph.edges.items():
            value = graph.node(node).inputs[index]
            if value.const_value is None and config.state is QuantizationStates.INITIAL:
                solve_minmax(config, [f[value.name] for f in floats])
        ParameterQuantizePass().optimize(graph)
        PassiveParameterQuantizePass().optimize(graph)
    return graph


def solve_minmax(config: TensorQuantizationConfig, arrays: Sequence[np.ndarray]) -> None:
    """Scale and offset of `config` from all the values of `arrays`."""
    axes = None
    if config.channel_axis is not None:
        axes = tuple(a for a in range(arrays[0].ndim) if a != config.channel_axis % arrays[0].ndim)
    low = np.min([a.min(axis=axes) for a in arrays], axis=0)
    high = np.max([a.max(axis=axes) for a in arrays], axis=0)
    config.scale, config.offset = affine(low, high, config)
    config.state = QuantizationStates.ACTIVATED


def every_value(graph: Graph, sample: Mapping[str, np.ndarray], simulate: bool = False) -> dict[str, np.ndarray]:
    """Every value of the graph, by numpy; `simulate`: quantized and dequantized wherever a config says so.

    With `simulate`, what a value's name stands for is the dequantized value, as in an exported model.
    """
    raw: dict[str, np.ndarray] = dict(sample)
    raw |= {name: v.const_value.numpy() for name, v in graph.model.graph.initializers.items()}

    def read(node: ir.Node, index: int, name: str) -> np.ndarray:
        config = graph.edges.get((node.name, index))
        if config is None or config.state is QuantizationStates.OVERLAPPED:
            config = graph.config_of(name)
        if not simulate or config is None or config.state in FLOAT_STATES:
            return raw[name]
        return fake(raw[name], config)

    opset = graph.model.opset_imports[""]
    for node in graph.model.graph:
        feeds = {f"i{i}": read(node, i, v.name) for i, v in enumerate(node.inputs) if v is not None}
        outs = [f"o{i}" for i in range(len(node.outputs))]
        proto = ir.to_proto(node)
        del proto.input[:], proto.output[:]
        proto.input.extend(f"i{i}" if v is not None else "" for i, v in enumerate(node.inputs))
        proto.output.extend(outs)
        infos = [[helper.make_empty_tensor_value_info(n) for n in names] for names in (feeds, outs)]
        one = helper.make_model(
            helper.make_graph([proto], "one", *infos), opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )
        results = ReferenceEvaluator(one).run(None, feeds)
        raw |= {v.name: r for v, r in zip(node.outputs, results, strict=True)}
    if not simulate:
        return raw
    configs = {n: graph.config_of(n) for n in raw}
    return {
        n: fake(v, c) if (c := configs[n]) is not None and c.state not in FLOAT_STATES else v for n, v in raw.items()
    }


def fake(values: np.ndarray, config: TensorQuantizationConfig) -> np.ndarray:
    """`values` through quantize and dequantize; a bias in float64, which its many digits need."""
    if config.num_of_bits < 32:
        return fake_quantize(values, config)
    return (np.rint(values.astype(np.float64) / config.scale) * config.scale).astype(np.float32)


def session(
    path: Path, optimized: bool, save: Path | None = None, int8_allowed: bool = False
) -> onnxruntime.InferenceSession:
    """onnxruntime with its optimizations off (the simulation) or on (the integer run).

    int8_allowed: int8 activations stay int8, as on ARM; on x86 they become uint8 where nothing forks, float elsewhere.
    """
    exact = not int8_allowed  # it cannot have both: onnxruntime makes a QGemm of int8 and uint8, and has no such kernel
    return opened(path, optimized, save, qdqisint8allowed=str(int(int8_allowed)), x64quantprecision=str(int(exact)))


def outputs(
    path: Path, samples: Sequence[Mapping[str, np.ndarray]], optimized: bool = False, int8_allowed: bool = False
) -> list[np.ndarray]:
    """The first output for each sample."""
    run = session(path, optimized, None, int8_allowed)
    return [run.run(None, dict(sample))[0] for sample in samples]


def op_types(path: Path) -> Counter:
    """How many nodes of each type the model has."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def classifier(model: onnx.ModelProto, make: Callable[[], TensorQuantizationConfig], axis: int | None = 0, **more):
    """Configs for `small_classifier` as the platform tables give them, with activation configs made by `make`."""
    values = {name: make() for name in ("x", "r1", "r2", "c3", "sum", "pooled", "logits")}
    values["flat"] = values["pooled"]
    edges = {}
    for node in ("conv1", "conv2", "conv3", "fc"):
        edges[node, 1] = weight(axis, **more)
        edges[node, 2] = bias(axis)
    return values, edges


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this file."""
    names = (activation, weight, bias, in_float, model_of, quantized, every_value, session, outputs, op_types)
    return SimpleNamespace(**{f.__name__: f for f in names}, classifier=classifier, node=helper.make_node)


@pytest.fixture(scope="session")
def samples(small_samples) -> list[dict[str, np.ndarray]]:
    """Samples of the small classifier, by input name."""
    return [{"x": x} for x in small_samples]


@pytest.fixture
def small_graph(kit, small_model, samples) -> Callable[..., Graph]:
    """The small classifier, quantized with activation configs made by the given function."""

    def make(config=kit.activation, axis: int | None = 0, solve: bool = True, **more) -> Graph:
        model = onnx.load(small_model)
        return kit.quantized(model, *kit.classifier(model, config, axis, **more), samples, solve)

    return make
