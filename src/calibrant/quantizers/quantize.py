"""quantize_graph: from the plan to configs on the values and edges of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from calibrant.core import ModelError, SettingError, TargetPlatform, TensorQuantizationConfig
from calibrant.graph import Graph, ScaleGroup
from calibrant.graph.axes import channel_axis
from calibrant.graph.mask import name_mask
from calibrant.graph.opset import raise_opset
from calibrant.quantizers import configs
from calibrant.quantizers.choice import kept_in_float, matching
from calibrant.quantizers.pairs import adds_pairs
from calibrant.quantizers.plan import Options, Plan, Scale, keep_what_is_read, make_plan
from calibrant.quantizers.rows import Kind, Role, Table
from calibrant.quantizers.streams import streams_to_equalize
from calibrant.quantizers.tables import table_of
from calibrant.settings import QuantizationSetting

SIXTEEN_BIT_OPSET = 21


def quantize_graph(graph: Graph, platform: TargetPlatform, setting: QuantizationSetting | None = None) -> None:
    """Give every value, weight and bias that `platform` quantizes its config; what was there before is forgotten.

    Activations and weights get state INITIAL, biases and constants beside them PASSIVE_INIT. Fills `graph.groups`,
    `configs`, `edges`, `operations`, `left_in_float`, `streams`, and adds to `report`.

    Raises SettingError for a platform without a table, for a pattern of the setting that fits nothing, for a mask that
    is none, and for a wish that the platform cannot fulfil. The graph is then without quantization.
    """
    setting = QuantizationSetting.of(setting)
    table = table_of(platform)
    graph.clear_quantization()
    name_mask(graph, setting.quantize_activation_setting.mask)
    _raise_for_wide_values(graph, table, setting)
    plan = plan_of(graph, platform, setting)
    try:
        filling = _Filling(graph, table, setting, plan)
        filling.activations()
        filling.parameters()
        graph.left_in_float = {node.name or "": reason for node, reason in plan.reasons.items()}
        graph.operations = {node.name or "": [n.name or "" for n in plan.fused.get(node, [])] for node in plan.rows}
        graph.streams = streams_to_equalize(graph, setting)
    except SettingError:
        graph.clear_quantization()
        raise
    graph.platform = platform


def plan_of(graph: Graph, platform: TargetPlatform, setting: QuantizationSetting) -> Plan:
    """What `quantize_graph` would decide; the graph is not changed. Raises as it does, but for overrides."""
    table = table_of(platform)
    symmetric = configs.activation_grid(table, setting).symmetric
    per_channel = setting.quantize_activation_setting.per_channel
    options = Options(setting.quantize_activation, setting.fusion, symmetric, per_channel)
    plan = make_plan(graph, table, kept_in_float(graph, table, setting), options)
    if table.outputs_when_read:
        keep_what_is_read(plan)
    return plan


class _Filling:
    """Writes the configs of a plan into the graph."""

    def __init__(self, graph: Graph, table: Table, setting: QuantizationSetting, plan: Plan) -> None:
        self._graph, self._table, self._setting, self._plan = graph, table, setting, plan
        self._weights: dict[tuple[ir.Value, int | None], TensorQuantizationConfig] = {}
        self._changes = _changes(graph, plan, setting)

    def activations(self) -> None:
        unknown: list[str] = []
        for scale in self._in_order():
            axis = self._axis(scale, unknown)
            changes, method = self._changes_of(scale), self._method(scale)
            config = configs.activation_config(self._table, self._setting, axis, changes, method)
            group = ScaleGroup(config, _names(scale.values), _names(scale.roots))
            if not changes and self._stays_float(scale):
                self._graph.float_outputs.append(group)
                if (self._setting.quantize_activation_setting.calib_algorithm or "").casefold() != "isotone":
                    output = group.values[0]
                    self._graph.note(f"output '{output}' stays in float (the method isotone would quantize it)")
                continue
            self._graph.groups.append(group)
            for value in scale.values:
                self._place(value, config)
        if unknown:
            self._graph.note("per tensor, for want of a fixed number of channels: " + ", ".join(unknown))

    def _method(self, scale: Scale) -> str:
        """The platform's own calibration method for these values."""
        if self._table.output_method and any(v.is_graph_output() for v in scale.values):
            return self._table.output_method
        readers = {use.node for v in scale.values for use in v.uses() if use.node in self._plan.rows}
        if self._table.saturated_method and any(self._saturates(node) for node in readers):
            return self._table.saturated_method
        return self._table.method

    def _saturates(self, node: ir.Node) -> bool:
        """Whether a Clip from above is fused behind this operator, and what exceeds its bound is lost anyway."""
        behind = [use.node for use in node.outputs[0].uses() if use.node in self._plan.inside]
        return any(n.op_type == "Clip" and len(n.inputs) > 2 and n.inputs[2] is not None for n in behind)

    def _stays_float(self, scale: Scale) -> bool:
        """Whether this is an output of the model alone, which the operator that makes it can give in float."""
        value, maker = scale.values[0], scale.values[0].producer()
        alone = len(scale.values) == 1 and value.is_graph_output() and not value.uses()
        return alone and maker is not None and maker.op_type in self._table.float_outputs

    def _in_order(self) -> list[Scale]:
        """The scales that have values left; they, and the values of each, in the order of the model."""
        place = {value: index for index, value in enumerate(self._graph.values())}
        scales = [scale for scale in self._plan.scales if scale.values]
        for scale in scales:
            scale.values.sort(key=place.__getitem__)
            scale.roots.sort(key=place.__getitem__)
        return sorted(scales, key=lambda scale: place[scale.values[0]])

    def _axis(self, scale: Scale, unknown: list[str]) -> int | None:
        if not self._setting.quantize_activation_setting.per_channel:
            return None
        axis = channel_axis(scale.values[0])
        if axis is None:
            unknown += _names(scale.values)
        return axis

    def _place(self, value: ir.Value, config: TensorQuantizationConfig) -> None:
        """Put the config on the value, or, where others must have the float value under its name, on its readers."""
        keeps_float = value in self._plan.read or self._table.outputs_when_read
        captured = any(use.node.graph is not self._graph.model.graph for use in value.uses())
        on_readers = keeps_float and (value.is_graph_output() or captured)
        if not on_readers:
            self._graph.configs[value.name or ""] = config
        for use in value.uses():
            integer = self._plan.reads_integers(use.node, use.idx)
            if use.node.graph is not self._graph.model.graph or integer is not on_readers:
                continue
            if integer or keeps_float:
                own = config if integer else configs.float_config()
                self._graph.edges[use.node.name or "", use.idx] = own

    def parameters(self) -> None:
        float_biases = 0
        for node, row in self._plan.rows.items():
            weight: TensorQuantizationConfig | None = None
            for index, value in enumerate(node.inputs):
                if value is None or value.const_value is None:
                    continue
                role = row.role(index)
                if role in (Role.DATA, Role.WEIGHT) and row.kind is Kind.COMPUTE and self._setting.quantize_parameter:
                    weight = self._weight(node, index, value)
                elif role is Role.BIAS and weight is not None:
                    float_biases += not self._bias(node, index, weight)
                elif role is Role.CONSTANT and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                    self._constant(node, index)
        if float_biases:
            which = "1 bias is" if float_biases == 1 else f"{float_biases} biases are"
            self._graph.note(f"{which} left in float: its scale would not follow from those of input and weight")

    def _weight(self, node: ir.Node, index: int, value: ir.Value) -> TensorQuantizationConfig:
        axis = configs.weight_axis(node, index)
        key = (value, axis)
        if key not in self._weights:
            changes = self._changes.get(value.name or "", {})
            reduced = self._setting.quantize_activation_setting.reduce_range and adds_pairs(node)
            self._weights[key] = configs.weight_config(self._table, self._setting, axis, changes, reduced)
            if axis is None and index and self._setting.quantize_parameter_setting.per_channel:
                self._graph.note(f"the weight of '{node.name}' ({node.op_type}) is quantized per tensor")
        self._graph.edges[node.name or "", index] = self._weights[key]
        return self._weights[key]

    def _bias(self, node: ir.Node, index: int, weight: TensorQuantizationConfig) -> bool:
        """Give the bias a config where platform and setting want one; False where it would not fit."""
        wanted = self._table.integer_bias and self._setting.quantize_parameter_setting.quantize_passive_parameter
        if not wanted or not self._setting.quantize_activation:
            return True
        data = self._graph.config_read(node, 0)
        if data is None or data.is_per_channel or not configs.takes_integer_bias(node, weight):
            return False
        self._graph.edges[node.name or "", index] = configs.bias_config(weight)
        return True

    def _constant(self, node: ir.Node, index: int) -> None:
        made = self._graph.configs.get(node.outputs[0].name or "")
        if made is not None and made is self._graph.config_read(node, 0):
            self._graph.edges[node.name or "", index] = configs.constant_config(made)

    def _changes_of(self, scale: Scale) -> Mapping[str, Any]:
        """The overrides for this scale. Raises SettingError when its values are given different ones."""
        wanted = {name: self._changes[name] for name in _names(scale.values) if name in self._changes}
        first = next(iter(wanted), None)
        for name, changes in wanted.items():
            if first is not None and changes != wanted[first]:
                raise SettingError(
                    f"overrides: '{first}' and '{name}' share one scale, and are given {wanted[first]} and {changes}: "
                    "give both the same"
                )
        return wanted[first] if first is not None else {}


def _changes(graph: Graph, plan: Plan, setting: QuantizationSetting) -> dict[str, dict[str, Any]]:
    """Value name -> its overrides; a later pattern adds to, and wins over, an earlier one."""
    if not setting.overrides:
        return {}
    scales = [name for scale in plan.scales for name in _names(scale.values)]
    weights = [
        v.name or ""
        for node, row in plan.rows.items()
        for i, v in enumerate(node.inputs)
        if v is not None and v.const_value is not None and row.role(i) in (Role.DATA, Role.WEIGHT)
    ]
    known = [*scales, *dict.fromkeys(weights)]
    found: dict[str, dict[str, Any]] = {}
    for pattern, changes in setting.overrides.items():
        if pattern not in known and any(v.name == pattern for v in graph.values()):
            raise SettingError(
                f"overrides: value '{pattern}' is not quantized: it is left in float, or lies within a fused operator"
            )
        made = [v.name for node in graph.model.graph if node.name == pattern for v in node.outputs]
        if pattern not in known and made:
            raise SettingError(f"overrides: '{pattern}' is a node, and overrides are of values: it makes '{made[0]}'")
        for name in matching("overrides", pattern, known):
            found[name] = found.get(name, {}) | changes
    return found


def _names(values: list[ir.Value]) -> list[str]:
    return [v.name or "" for v in values]


def _raise_for_wide_values(graph: Graph, table: Table, setting: QuantizationSetting) -> None:
    """Raise the opset where the numbers wanted need a newer QuantizeLinear."""
    asked = [setting.quantize_activation_setting.num_of_bits, setting.quantize_parameter_setting.num_of_bits]
    asked += [changes.get("num_of_bits", 8) for changes in setting.overrides.values()]
    if max(asked) > 8 and table.most_bits > 8:
        try:
            raise_opset(graph, SIXTEEN_BIT_OPSET, "16-bit QuantizeLinear needs it")
        except ModelError as error:
            graph.note(f"16-bit values are exported with onnxruntime's own operators: {error}")
