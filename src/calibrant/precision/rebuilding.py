"""One model after another that differ in what is left in float; what was found once is not found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import QuantizationStates, TargetPlatform, TensorQuantizationConfig
from calibrant.exporters.readiness import parameter_configs
from calibrant.graph import Graph
from calibrant.graph.streams import Stream
from calibrant.passes import RuntimeCalibrationPass, pipeline
from calibrant.passes.activations import activation_configs
from calibrant.passes.equalization import equalize_again
from calibrant.passes.optimization import OptimizationPass
from calibrant.passes.parameter import keep_weights, solved_weights
from calibrant.precision.order import Names, leaving
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable

Config = TensorQuantizationConfig


@dataclass(frozen=True)
class Found:
    """The scales of a calibrated graph, to be given to it again once it is quantized anew.

    factors: of the streams that were equalized. activations: by the values that they were found from. weights: by
        edge. constants: those that the quantized model reads otherwise, by name. report: what was told on the way.
    """

    factors: Mapping[Stream, NDArray[np.float64]]
    activations: Mapping[tuple[str, ...], Config]
    weights: Mapping[tuple[str, int], Config]
    constants: Mapping[str, NDArray[Any]]
    report: list[str]

    @classmethod
    def of(cls, graph: Graph) -> Found:
        """Of a graph with its scales found, before they are moved for an exact simulation."""
        solved = {tuple(roots): config.clone() for config, roots in activation_configs(graph) if _solved(config)}
        constants = {name: graph.constant(name) for name in graph.changed_constants}
        return cls(dict(graph.rescalings), solved, solved_weights(graph), constants, list(graph.report))

    def give(self, graph: Graph) -> None:
        """To the configs that wait for a scale, and are found from the same values on the same grid.

        Streams are equalized whatever is in float: that changes nothing of the float model.
        """
        equalize_again(graph, self.factors)
        for config, roots in activation_configs(graph):
            known = self.activations.get(tuple(roots))
            if known is not None and config.state is QuantizationStates.INITIAL and _grid(known) == _grid(config):
                config.scale, config.offset, config.detail = known.scale, known.offset, dict(known.detail)
                config.observer_algorithm, config.state = known.observer_algorithm, known.state
        keep_weights(graph, self.weights)
        for name, array in self.constants.items():
            if any(use.node.name in graph.operations for use in graph.value(name).uses()):
                graph.change_constant(name, array)


class Models:
    """Makes of a graph the model in which some operations more are left in float.

    found: the scales of the model with none of them. table: statistics of the equalized values, for those that get a
    scale of their own when others go to float; None where activations are not quantized.
    """

    def __init__(
        self,
        graph: Graph,
        platform: TargetPlatform,
        setting: QuantizationSetting,
        found: Found,
        table: CalibrationTable | None,
        threads: int,
    ) -> None:
        self.graph = graph
        self._platform, self._setting = platform, setting
        self._found, self._table, self._threads = found, table, threads

    def build(self, left: Names) -> None:
        """Quantize the graph anew, with these operations in float.

        Passes that optimize are not run again: what they found for scales and weights is kept.
        """
        quantize_graph(self.graph, self._platform, leaving(self._setting, left))
        self._found.give(self.graph)
        for step in pipeline(self._setting, None):
            if isinstance(step, RuntimeCalibrationPass) and self._table is not None:
                self._table.apply(self.graph, step.method, self._threads)
            elif not isinstance(step, OptimizationPass):
                step.optimize(self.graph, threads=self._threads)

    def tell_again(self) -> None:
        """Put back into the report what was told when the scales were found."""
        for line in self._found.report:
            if line not in self.graph.report:
                self.graph.note(line)


def quantized_bytes(graph: Graph) -> int:
    """What the constants of the model take as the integers that they are to be stored as."""
    wider = {graph.input_of(node.name or "", index): config for node, index, config in parameter_configs(graph)}
    saved = 0
    for name, config in wider.items():
        constant = graph.value(name).const_value
        stored = 4 if config.num_of_bits > 16 else 2 if config.num_of_bits > 8 else 1
        saved += 0 if constant is None else max(0, constant.nbytes - stored * constant.size)
    return graph.weight_bytes - saved


def _solved(config: Config) -> bool:
    return config.state is QuantizationStates.ACTIVATED


def _grid(config: Config) -> tuple[object, ...]:
    return repr(config.policy), config.num_of_bits, config.quant_min, config.quant_max, config.channel_axis
