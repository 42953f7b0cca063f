"""A float model and its configs become a Q/DQ model: shared by every runtime that reads one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import ExportError, QuantizationStates, TensorQuantizationConfig
from calibrant.core.policy import IN_FLOAT
from calibrant.exporters.dialect import Dialect, GridClip
from calibrant.exporters.fold import Bounds, foldable
from calibrant.exporters.in_float import keep_in_float
from calibrant.exporters.storage import fills_type, integers, scale_and_zero_point, storage_type, type_bounds
from calibrant.graph.naming import Names
from calibrant.graph.roles import is_bound

if TYPE_CHECKING:
    from calibrant.graph import Graph

CONTRIB = "com.microsoft"
PER_AXIS_OPSET, INTEGER_CLIP_OPSET, WIDE_OPSET = 13, 12, 21

Config = TensorQuantizationConfig
Reader = tuple[ir.Node, int]


def insert_qdq(graph: Graph, dialect: Dialect) -> ir.Model:
    """A copy of the graph's model with a QuantizeLinear/DequantizeLinear pair wherever a config says so.

    1. A value with a config is quantized once, after its producer; its readers read the dequantized value, which also
       takes over its name (graph inputs keep theirs). The float value before it is called `<name>_float`.
    2. A reader whose edge says FP32 reads the float value; one with a config of its own reads its own pair.
    3. A constant with a config becomes integers and a DequantizeLinear (one that is not BAKED: float and a pair).
       Constants of Clip and Pad stay as they are: what they make is quantized behind them, to the same integers.
    4. Grids narrower than their type are kept by a Clip, as the dialect wants it.
    5. Graph inputs and outputs keep names, types and shapes.
    6. Where the runtime would make integer operations of what is to run in float, it is kept from that: see `in_float`.

    `check_ready` comes first. Raises ExportError for what the model's opset cannot express.
    """
    return _Insertion(graph, dialect).run()


class _Insertion:
    """The copy being changed, and what has been added to it."""

    def __init__(self, graph: Graph, dialect: Dialect) -> None:
        self.dialect = dialect
        self.model = graph.quantized_model()
        self.top = self.model.graph
        self.opset = self.model.opset_imports.get("", 0)
        self.names = Names(self.model)
        self.parameters: dict[int, list[ir.Value]] = {}
        nodes = {node.name: node for node in self.top}
        self.own = {(nodes[name], index): config for (name, index), config in graph.edges.items()}
        self.configs = {name: config for name, config in graph.configs.items() if config.state not in IN_FLOAT}

    def run(self) -> ir.Model:
        for value in list(self._values()):
            self._activation(value, self.configs.get(str(value.name)))
        for value in list(self.top.initializers.values()):
            self._constant(value)
        for value in list(self.top.initializers.values()):
            if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                del self.top.initializers[str(value.name)]  # read as integers now, or by a Clip that is gone
        if self.dialect.overreaches:
            keep_in_float(self.model, self.names)
        return self.model

    def _values(self) -> Iterable[ir.Value]:
        yield from self.top.inputs
        for node in self.top:
            yield from node.outputs

    def _own_config(self, reader: Reader) -> Config | None:
        """The config that this reader has of its own; None: it has none, or another decides (OVERLAPPED)."""
        config = self.own.get(reader)
        return None if config is None or config.state is QuantizationStates.OVERLAPPED else config

    # --- activations

    def _activation(self, value: ir.Value, config: Config | None) -> None:
        if value.is_initializer():
            return
        readers = [(use.node, use.idx) for use in value.uses()]
        ordinary: list[Reader] = []
        special: dict[int, tuple[Config, list[Reader]]] = {}
        for reader in readers:
            own = self._own_config(reader)
            if own is None or own is config:
                ordinary.append(reader)
            else:
                special.setdefault(id(own), (own, []))[1].append(reader)
        name = str(value.name)
        for own, its_readers in special.values():
            if own.state is not QuantizationStates.FP32:
                self._attach(value, own, its_readers, self.names.fresh(f"{name}_requantized"))
        outputs = [i for i, out in enumerate(self.top.outputs) if out is value and not value.is_graph_input()]
        if config is None or not (ordinary or outputs):
            return
        bounds = foldable(value, config) if self._may_fold(special, config) else None
        dequantized = self._attach(value, config, ordinary, self._rename(value), bounds)
        for i in outputs:
            self.top.outputs[i] = dequantized
        if bounds is not None:
            self.top.remove(bounds.node, safe=True)

    def _may_fold(self, special: dict[int, Any], config: Config) -> bool:
        return self.dialect.folds_activations and not special and self._integer_clip_works(config)

    def _integer_clip_works(self, config: Config) -> bool:
        return self.opset >= INTEGER_CLIP_OPSET and config.num_of_bits <= 8

    def _rename(self, value: ir.Value) -> str:
        """The name of the dequantized value: the value's own, which then takes another; inputs keep theirs."""
        name = str(value.name)
        if value.is_graph_input():
            return self.names.fresh(f"{name}_dequantized")
        value.name = self.names.fresh(f"{name}_float")
        return name

    def _attach(
        self, value: ir.Value, config: Config, readers: Sequence[Reader], name: str, bounds: Bounds | None = None
    ) -> ir.Value:
        """Put Q, what keeps the grid, and DQ behind `value`; let `readers` read the result, which is called `name`."""
        low, high = (bounds.low, bounds.high) if bounds else (config.quant_min, config.quant_max)
        narrow = (low, high) != type_bounds(config) if bounds else not fills_type(config)
        integer = bounds is not None or (self.dialect.clip is GridClip.INTEGER and self._integer_clip_works(config))
        source = value if bounds is None else bounds.node.inputs[0]
        nodes: list[ir.Node] = []
        current: ir.Value | None = source
        if narrow and not integer and self.dialect.clip is not GridClip.NONE:
            current = self._float_clip(current, config, name, nodes)
        current = self._node("QuantizeLinear", [current, *self._scale(config, name)], config, name, value.shape, nodes)
        if narrow and integer:
            current = self._integer_clip(current, config, (low, high), name, nodes)
        out = self._node("DequantizeLinear", [current, *self._scale(config, name)], config, name, value.shape, nodes)
        out.name = name
        out.doc_string = value.doc_string
        out.metadata_props.update(value.metadata_props)
        producer = source.producer() if source is not None else None
        self._place(nodes, producer)
        for node, index in readers:
            node.replace_input_with(index, out)
        return out

    def _float_clip(self, x: ir.Value | None, config: Config, name: str, nodes: list[ir.Node]) -> ir.Value:
        """Clip to the ends of the grid: they are whole multiples of the scale, so Q maps them to the ends exactly."""
        scale, zero = scale_and_zero_point(config)
        if scale.ndim:
            raise ExportError(
                f"cannot keep '{name}' inside [{config.quant_min}, {config.quant_max}] channel by channel: "
                "give its grid the whole integer type, or quantize it per tensor"
            )
        offset = np.float32(zero)
        bounds = [
            self._initializer(f"{name}_low", (np.float32(config.quant_min) - offset) * scale),
            self._initializer(f"{name}_high", (np.float32(config.quant_max) - offset) * scale),
        ]
        node = ir.node("Clip", [x, *bounds], name=self.names.fresh(f"{name}_Grid"))
        return self._typed(node, ir.DataType.FLOAT, x.shape if x else None, nodes)

    def _integer_clip(
        self, q: ir.Value, config: Config, ends: tuple[int, int], name: str, nodes: list[ir.Node]
    ) -> ir.Value:
        kind = storage_type(config)
        bounds = [
            self._initializer(f"{name}_quant_min", np.asarray(ends[0], kind.numpy())),
            self._initializer(f"{name}_quant_max", np.asarray(ends[1], kind.numpy())),
        ]
        node = ir.node("Clip", [q, *bounds], name=self.names.fresh(f"{name}_Grid"))
        return self._typed(node, kind, q.shape, nodes)

    # --- constants

    def _constant(self, value: ir.Value) -> None:
        by_config: dict[int, tuple[Config, list[Reader]]] = {}
        for use in value.uses():
            config = self._own_config((use.node, use.idx))
            if config is None or config.state is QuantizationStates.FP32 or self._stays(use.node, use.idx, config):
                continue
            by_config.setdefault(id(config), (config, []))[1].append((use.node, use.idx))
        for config, readers in by_config.values():
            if config.state is QuantizationStates.ACTIVATED:
                self._attach(value, config, readers, self.names.fresh(f"{value.name}_dequantized"))
            else:
                self._store(value, config, readers)

    def _stays(self, node: ir.Node, index: int, config: Config) -> bool:
        """Whether this constant stays in float: those of Clip and Pad, and biases where the runtime wants them so."""
        if config.is_bias:
            return not self.dialect.integer_bias
        return is_bound(node, index)

    def _store(self, value: ir.Value, config: Config, readers: Sequence[Reader]) -> None:
        """The constant as integers, and a DequantizeLinear from which `readers` read it."""
        if value.const_value is None:
            raise ExportError(f"cannot store '{value.name}' as integers: the initializer has no data")
        array: NDArray[Any] = np.asarray(value.const_value.numpy())
        name = str(value.name)
        stored = self._initializer(f"{name}_quantized", integers(array, config))
        nodes: list[ir.Node] = []
        out = self._node(
            "DequantizeLinear",
            [stored, *self._scale(config, name)],
            config,
            name,
            value.shape or ir.Shape(array.shape),
            nodes,
        )
        self._place(nodes, None)
        for node, index in readers:
            node.replace_input_with(index, out)

    # --- nodes and values

    def _scale(self, config: Config, name: str) -> list[ir.Value]:
        """Scale and zero point as initializers, one pair for each config however many values share it.

        A bias has no zero point: the standard wants it 0 or, better, left out for int32.
        """
        if id(config) not in self.parameters:
            scale, zero = scale_and_zero_point(config)
            made = [self._initializer(f"{name}_scale", scale)]
            if not config.is_bias:
                made.append(self._initializer(f"{name}_zero_point", zero))
            self.parameters[id(config)] = made
        return self.parameters[id(config)]

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        config: Config,
        name: str,
        shape: ir.Shape | None,
        nodes: list[ir.Node],
    ) -> ir.Value:
        wide = 8 < config.num_of_bits <= 16 and self.opset < WIDE_OPSET
        if wide and not self.dialect.contrib_16_bits:
            raise ExportError(
                f"{self.dialect.platform.name} cannot quantize '{name}' to {config.num_of_bits} bits: "
                f"that needs opset {WIDE_OPSET}, the model has {self.opset}"
            )
        attributes: dict[str, Any] = {}
        if config.channel_axis is not None:
            if self.opset < PER_AXIS_OPSET:
                raise ExportError(
                    f"cannot quantize '{name}' per channel: that needs opset {PER_AXIS_OPSET}, "
                    f"the model has {self.opset}; convert it, or quantize per tensor"
                )
            rank = None if shape is None else len(shape)
            attributes["axis"] = config.channel_axis if rank is None else config.channel_axis % rank
        if wide:
            self.model.opset_imports.setdefault(CONTRIB, 1)
        node = ir.node(
            op_type,
            inputs,
            attributes,
            domain=CONTRIB if wide else "",
            name=self.names.fresh(f"{name}_{op_type}"),
        )
        kind = storage_type(config) if op_type == "QuantizeLinear" else ir.DataType.FLOAT
        return self._typed(node, kind, shape, nodes)

    def _typed(self, node: ir.Node, kind: ir.DataType, shape: ir.Shape | None, nodes: list[ir.Node]) -> ir.Value:
        out = node.outputs[0]
        out.name = self.names.fresh(f"{node.name}_output")
        out.type, out.shape = ir.TensorType(kind), shape
        nodes.append(node)
        return out

    def _initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        name = self.names.fresh(name)
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.top.register_initializer(value)
        return value

    def _place(self, nodes: list[ir.Node], producer: ir.Node | None) -> None:
        if producer is not None:
            self.top.insert_after(producer, nodes)
        else:  # made of inputs and initializers alone
            self.top.insert_before(self.top[0], nodes)
