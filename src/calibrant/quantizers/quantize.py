"""quantize_graph: walk the model once, in order, and give every value that the platform quantizes its config."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from calibrant.core import QuantizationStates, TargetPlatform, TensorQuantizationConfig
from calibrant.graph import Graph, ScaleGroup
from calibrant.quantizers import configs
from calibrant.quantizers.rows import Kind, Role, Row
from calibrant.quantizers.tables import table_of

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def quantize_graph(graph: Graph, platform: TargetPlatform, setting: Any) -> None:
    """Fill `graph` with configs for that platform: activations and weights INITIAL, biases PASSIVE_INIT."""
    graph.clear_quantization()
    graph.platform = platform
    _Walk(graph, platform, setting).run()


class _Walk:
    """State of one walk. `home`: values quantized at their producer, with their group."""

    def __init__(self, graph: Graph, platform: TargetPlatform, setting: Any) -> None:
        self.graph = graph
        self.table = table_of(platform)
        self.setting = setting
        self.home: dict[ir.Value, ScaleGroup] = {}
        self.read: dict[ir.Value, ScaleGroup] = {}
        self.tails: set[ir.Value] = set()
        self.fused: set[ir.Node] = set()
        self.quantized: set[ir.Node] = set()

    def run(self) -> None:
        for node in self.graph.model.graph:
            row = self.table.rows.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if node in self.fused:
                continue
            if row is None or not self._decide(node, row):
                if any(v.dtype in FLOATS for v in node.outputs):
                    self.graph.left_in_float[node.name or ""] = "the platform runs it in float"
        self._float_readers()

    def _decide(self, node: ir.Node, row: Row) -> bool:
        data = [v for i, v in enumerate(node.inputs) if v is not None and row.role(i) is Role.DATA]
        if row.kind is Kind.COMPUTE:
            self._inputs(node, row)
            if row.output:
                self._own(self._tail(node, row))
            self.quantized.add(node)
            return True
        if not data or any(v not in self.home for v in data):
            return False
        self.quantized.add(node)
        if row.kind in (Kind.JOIN, Kind.RESCALE):
            self._own(self._tail(node, row))
            return True
        group = self.home[data[0]]
        for other in data[1:]:
            group = self._merge(group, self.home[other])
        for output in node.outputs:
            self._share(output, group)
        return True

    def _inputs(self, node: ir.Node, row: Row) -> None:
        weight: TensorQuantizationConfig | None = None
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            role = row.role(index)
            if role is Role.BIAS:
                if weight is not None and value.const_value is not None and self.table.bias_is_integer:
                    self.graph.edges[node.name or "", index] = configs.bias_config(weight)
            elif value.const_value is not None:
                axis = configs.weight_axis(node, index, len(value.shape or ()))
                weight = configs.weight_config(self.table, self.setting, axis)
                self.graph.edges[node.name or "", index] = weight
            elif value not in self.home and value not in self.read:
                group = self._new_group(value)
                self.read[value] = group
                self.graph.configs[value.name or ""] = group.config

    def _new_group(self, value: ir.Value) -> ScaleGroup:
        config = configs.activation_config(self.table, self.setting)
        group = ScaleGroup(config, [value.name or ""], [value.name or ""])
        self.graph.groups.append(group)
        return group

    def _own(self, value: ir.Value) -> None:
        self.home[value] = self._new_group(value)
        self.graph.configs[value.name or ""] = self.home[value].config

    def _share(self, value: ir.Value, group: ScaleGroup) -> None:
        self.home[value] = group
        group.values.append(value.name or "")
        self.graph.configs[value.name or ""] = group.config

    def _merge(self, one: ScaleGroup, other: ScaleGroup) -> ScaleGroup:
        if one is other:
            return one
        one.values += other.values
        one.roots += other.roots
        for value, group in self.home.items():
            if group is other:
                self.home[value] = one
        for name in other.values:
            self.graph.configs[name] = one.config
        self.graph.groups.remove(other)
        return one

    def _tail(self, node: ir.Node, row: Row) -> ir.Value:
        value = node.outputs[0]
        if not self.setting.fusion or value.is_graph_output() or len(value.uses()) != 1:
            return value
        reader = value.uses()[0].node  # type: ignore[index]
        if reader.op_type not in row.fuses or reader.graph is not node.graph:
            return value
        self.fused.add(reader)
        return reader.outputs[0]

    def _float_readers(self) -> None:
        for value in self.read:
            for use in value.uses():
                if use.node not in self.quantized:
                    self.graph.edges[use.node.name or "", use.idx] = configs.float_config()


__all__ = ["QuantizationStates", "quantize_graph"]
