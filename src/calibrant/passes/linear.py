"""Nodes that multiply data with a weight, as what they are: rows of the weight times columns of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import SettingError, TensorQuantizationConfig
from calibrant.core.policy import SOLVED
from calibrant.graph.weights import outputs_come_last
from calibrant.passes.base import parameter_of
from calibrant.quantizers.choice import nodes_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.graph import Graph

Array = NDArray[Any]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Linear:
    """A Conv, Gemm or MatMul whose weight is a constant: output = rows x columns + bias, group by group.

    rows: the weight, (groups, outputs of a group, K). columns: what one output value is made of, (groups, K, places);
    K counts the channels of a group times the elements of the kernel. places: numbers of output positions, each of one
    image, or row of a matrix.
    bias_name: of its bias, if it has one of its own, which may change. config: of the weight.
    """

    node: ir.Node
    weight_name: str
    bias_name: str | None
    config: TensorQuantizationConfig
    shape: tuple[int, ...]
    groups: int
    channels_last: bool  # whether the weight is (K, outputs)

    def rows(self, weight: Array) -> Array:
        """The weight as rows."""
        flat = weight.T if self.channels_last else weight.reshape(weight.shape[0], -1)
        return flat.reshape(self.groups, -1, flat.shape[1])

    def weight(self, rows: Array) -> Array:
        """Rows as the weight."""
        flat = rows.reshape(-1, rows.shape[-1])
        return np.ascontiguousarray(flat.T) if self.channels_last else flat.reshape(self.shape)

    @property
    def kernel(self) -> int:
        """How many values of a row belong to one channel of the data."""
        return int(np.prod(self.shape[2:])) if self._is_conv else 1

    def count(self, output: Array) -> int:
        """How many places an output of that node has."""
        return int(output.size // max(1, output.shape[1 if self._is_conv else -1]))

    def values(self, output: Array, places: Places) -> Array:
        """The outputs at these places: (groups, outputs of a group, places)."""
        if self._is_conv:
            flat = np.moveaxis(output.reshape(*output.shape[:2], -1), 0, 1)
            flat = flat.reshape(output.shape[1], -1)[:, places]
        else:
            flat = output.reshape(-1, output.shape[-1])[places].T
        return flat.reshape(self.groups, -1, places.size)

    def columns(self, data: Array, output: Array, places: Places) -> Array:
        """The columns that make the outputs at these places. data, output: what the node reads and makes."""
        if not self._is_conv:
            return np.ascontiguousarray(data.reshape(-1, data.shape[-1])[places].T)[None]
        kernel, spatial = self.shape[2:], output.shape[2:]
        stride, dilation = self._numbers("strides", 1), self._numbers("dilations", 1)
        before, after = self._padding(data.shape[2:], spatial, stride, dilation)
        padded = np.pad(data, [(0, 0), (0, 0), *zip(before, after, strict=True)])
        image, *where = np.unravel_index(places, (data.shape[0], *spatial))
        size = padded.shape[2:]
        first = np.ravel_multi_index(tuple(w * s for w, s in zip(where, stride, strict=True)), size)
        steps = np.meshgrid(*(np.arange(k) * d for k, d in zip(kernel, dilation, strict=True)), indexing="ij")
        offsets = np.ravel_multi_index(tuple(step.ravel() for step in steps), size)
        flat = np.moveaxis(padded.reshape(*padded.shape[:2], -1), 0, 1)
        found = flat.reshape(flat.shape[0], -1)[:, image * flat.shape[2] + first + offsets[:, None]]
        return found.reshape(self.groups, -1, places.size)

    @property
    def _is_conv(self) -> bool:
        return self.node.op_type == "Conv"

    def _numbers(self, name: str, default: int) -> tuple[int, ...]:
        found = self.node.attributes.get_ints(name, None)
        return tuple(found) if found else (default,) * (len(self.shape) - 2)

    def _padding(
        self, size: tuple[int, ...], made: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Zeros before and behind each dimension."""
        how = self.node.attributes.get_string("auto_pad", "NOTSET")
        if how == "VALID":
            return (0,) * len(size), (0,) * len(size)
        if how in ("SAME_UPPER", "SAME_LOWER"):
            spans = [(k - 1) * d + 1 for k, d in zip(self.shape[2:], dilation, strict=True)]
            total = [max(0, (m - 1) * s + span - n) for m, s, span, n in zip(made, stride, spans, size, strict=True)]
            less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
            return (less, more) if how == "SAME_UPPER" else (more, less)
        pads = self.node.attributes.get_ints("pads", None) or (0,) * (2 * len(size))
        return tuple(pads[: len(size)]), tuple(pads[len(size) :])


def linear_layers(graph: Graph, interested: Sequence[str] = ()) -> list[Linear]:
    """The nodes, in order, whose weight is on a grid and may be changed for them alone.

    interested: node names, op types or regular expressions; none: all. One that means no such node is a SettingError.

    Not those whose weight, or its config, has another reader, or more than 8 bits; a Gemm that transposes its data or
    scales; a weight on the left of a MatMul, or of rank 3 there; a bias that is computed.
    """
    layers = [layer for node in graph.model.graph if (layer := _linear(graph, node)) is not None]
    if not interested:
        return layers
    wanted: set[str] = set()
    for pattern in interested:
        found = set(nodes_of(graph, "interested_layers", pattern))
        if not found & {layer.node.name for layer in layers}:
            raise SettingError(f"interested_layers: '{pattern}' means no layer whose weight is quantized for it alone")
        wanted |= found
    return [layer for layer in layers if layer.node.name in wanted]


def _linear(graph: Graph, node: ir.Node) -> Linear | None:
    weight = parameter_of(node, 1)
    config = graph.config_read(node, 1)
    if node.op_type not in ("Conv", "Gemm", "MatMul") or weight is None or config is None or weight.ndim < 2:
        return None
    value = node.inputs[1]
    if value is None or config.state not in SOLVED or config.num_of_bits > 8:
        return None
    if weight.dtype != np.float32 or not weight.size:
        return None
    shared = sum(other is config for other in graph.edges.values()) > 1 or not is_read_once(value)
    last = outputs_come_last(node)
    axis = None if config.channel_axis is None else config.channel_axis % weight.ndim
    if shared or (node.op_type != "Conv" and weight.ndim != 2) or axis not in (None, int(last)):
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and parameter_of(node, 2) is None:
        return None  # a bias that is computed
    if node.op_type == "Gemm" and (
        node.attributes.get_int("transA", 0) != 0
        or any(node.attributes.get_float(name, 1.0) != 1 for name in ("alpha", "beta"))
    ):
        return None
    groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
    outputs = weight.shape[1 if last else 0]
    return Linear(node, value.name or "", _own_bias(node, outputs), config, weight.shape, groups, last)


def is_read_once(value: ir.Value) -> bool:
    """Whether a node reads it, and nobody else: it is no output of the model either."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _own_bias(node: ir.Node, outputs: int) -> str | None:
    """The name of a bias, one number for each output, that nobody else reads."""
    values = parameter_of(node, 2)
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if values is None or value is None or values.shape != (outputs,) or not is_read_once(value):
        return None
    return value.name
