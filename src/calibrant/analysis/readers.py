"""What quantizing one value does to what is computed from it at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.analysis.submodel import open_submodel
from calibrant.core import QuantizationStates, TensorQuantizationConfig, fake_quantize
from calibrant.engines import Executor
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.graph.bodies import body_graphs

F64 = NDArray[np.float64]
_FUSED = {"Relu", "Clip"}


def reader_errors(
    graph: Graph,
    executor: Executor,
    samples: Iterable[Feed],
    tried: Sequence[tuple[Sequence[str], Sequence[TensorQuantizationConfig]]],
) -> list[F64]:
    """For each of `tried`, names of values that share a scale and configs to choose from: the error of each config.

    The error is that of the outputs of the operators that read the values (behind a Relu or Clip that only they feed),
    when the values alone are quantized: its power over the output's, added up over operators and means of samples.
    Where nothing but the model's outputs reads a value, it is that of the value itself.

    Runs the float model once over the samples, and each reader once for each config; executor.threads at a time, each
    on one thread, as most of them are too small for more.
    """
    values = [name for names, _ in tried for name in names]
    readers = {name: [Reader(graph, node) for node in reading(graph, name)] for name in values}
    wanted = list(
        dict.fromkeys([*values, *(n for found in readers.values() for reader in found for n in reader.inputs)])
    )
    noise = [np.zeros((len(names), len(configs))) for names, configs in tried]
    power = [np.zeros((len(names), 1)) for names, _ in tried]

    def add(number: int) -> None:
        names, configs = tried[number]
        for row, name in enumerate(names):
            exact = _outputs(readers[name], seen) or [seen[name]]
            power[number][row] += sum(float((x.astype(np.float64) ** 2).sum()) for x in exact)
            for column, config in enumerate(configs):
                quantized = fake_quantize(seen[name], config)
                got = _outputs(readers[name], seen | {name: quantized}) or [quantized]
                noise[number][row, column] += _squared_difference(exact, got)

    with ThreadPoolExecutor(executor.threads, thread_name_prefix="calibrant-readers") as pool:
        for sample in samples:
            seen = dict(zip(wanted, executor.forward(sample, wanted), strict=True))
            list(pool.map(add, range(len(tried))))
    return [(n / np.maximum(p, np.finfo(np.float64).tiny)).sum(axis=0) for n, p in zip(noise, power, strict=True)]


def reading(graph: Graph, name: str) -> list[ir.Node]:
    """The nodes of the main graph that read this value quantized."""
    found = []
    for use in graph.value(name).uses():
        config = graph.edges.get((use.node.name or "", use.idx))
        floats = config is not None and config.state is QuantizationStates.FP32
        if not floats and use.node.graph is graph.model.graph and use.node not in found and not body_graphs(use.node):
            found.append(use.node)
    return found


class Reader:
    """A node, with a Relu or Clip behind it, as a model of its own. inputs: the names of what it reads."""

    def __init__(self, graph: Graph, node: ir.Node) -> None:
        nodes = [node]
        uses = list(node.outputs[0].uses())
        if (
            len(uses) == 1
            and uses[0].node.op_type in _FUSED
            and uses[0].idx == 0
            and not node.outputs[0].is_graph_output()
        ):
            nodes.append(uses[0].node)
        inner = {value for one in nodes for value in one.outputs}
        read = [value for one in nodes for value in one.inputs if value is not None and value not in inner]
        self.inputs = list(dict.fromkeys(value.name or "" for value in read if value.const_value is None))
        inputs = {value: None for value in read if value.const_value is None}
        self._session = open_submodel(nodes, inputs, nodes[-1].outputs, graph.model.opset_imports)

    def run(self, seen: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Its floating outputs."""
        made = self._session.run(None, {name: seen[name] for name in self.inputs})
        return [array for array in made if array.dtype.kind == "f"]


def _outputs(readers: Sequence[Reader], seen: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    return [array for reader in readers for array in reader.run(seen)]


def _squared_difference(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    return sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(one, other, strict=True))
