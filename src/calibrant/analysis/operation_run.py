"""One operation, quantized, on exact inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from calibrant.analysis.operations import Operation, config_behind, quantized_inputs
from calibrant.analysis.pieces import Changed
from calibrant.analysis.submodel import open_submodel
from calibrant.core import TensorQuantizationConfig, fake_quantize
from calibrant.graph import Graph
from calibrant.graph.roles import is_bound
from calibrant.passes.base import parameter_of

Values = Mapping[str, NDArray[Any]]


class OperationRun:
    """One operation, run on what its integers stand for. inputs: names of the activations that it reads."""

    def __init__(self, graph: Graph, operation: Operation) -> None:
        node = operation.nodes[0]
        self._outputs = [value.name or "" for value in operation.outputs]
        self._read: dict[str, TensorQuantizationConfig] = {}
        self._parameters: dict[str, NDArray[Any]] = {}
        inner = {value for one in operation.nodes for value in one.outputs}
        read = dict.fromkeys(v for one in operation.nodes for v in one.inputs if v is not None and v not in inner)
        inputs = [value for value in read if value.const_value is None]
        for index, config in quantized_inputs(graph, operation).items():
            value = node.inputs[index]
            parameter = parameter_of(node, index)
            if value is not None and parameter is None:
                self._read[value.name or ""] = config
            elif value is not None and parameter is not None and not is_bound(node, index):
                self._parameters[value.name or ""] = fake_quantize(parameter, config).astype(parameter.dtype)
                inputs.append(value)
        self.inputs = [value.name or "" for value in inputs if value.const_value is None]
        made = {name: config_behind(graph, name) for name in self._outputs}
        self._made = {name: config for name, config in made.items() if config is not None}
        opsets = graph.model.opset_imports
        self._session = open_submodel(operation.nodes, dict.fromkeys(inputs), operation.outputs, opsets)

    def alone(self, exact: Values, rounded: Values) -> dict[str, Changed]:
        """Its outputs, by name, when it is quantized and all that it reads is exact.

        rounded: values that were put on their grid before.
        """
        feed = {name: self._as_read(name, exact, rounded) for name in self.inputs} | self._parameters
        made = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        return {name: Changed(x, rounded_by(x, self._made.get(name))) for name, x in made.items()}

    def with_parameters(self, exact: Values) -> dict[str, Changed]:
        """Its outputs, by name, when its parameters alone are quantized. None of them where it has no such ones."""
        if not self._parameters:
            return {}
        feed = {name: exact[name] for name in self.inputs} | self._parameters
        made = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        return {name: Changed(x, x) for name, x in made.items()}

    def _as_read(self, name: str, exact: Values, rounded: Values) -> NDArray[Any]:
        config = self._read.get(name)
        if config is None:
            return exact[name]
        return rounded[name].astype(exact[name].dtype) if name in rounded else rounded_by(exact[name], config)


def rounded_by(x: NDArray[Any], config: TensorQuantizationConfig | None) -> NDArray[Any]:
    """`x` as the integers of `config` give it back, in its own dtype; as it is where there is none."""
    return x if config is None else fake_quantize(x, config).astype(x.dtype)
