"""Graph: the working model, and what a quantizer decided about its values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import ModelError, QuantizationStates, TargetPlatform, TensorQuantizationConfig
from calibrant.core.notebook import html_table
from calibrant.core.policy import IN_FLOAT
from calibrant.graph.axes import channel_axis
from calibrant.graph.streams import Stream

PROTOBUF_LIMIT = 2**31 - 2**26  # bytes of tensors: protobuf refuses messages of 2 GiB; the rest is room for the nodes

ORIGINAL = "calibrant.original"  # where a value keeps the constant that it had in the float model


@dataclass
class ScaleGroup:
    """Values that share one config.

    values: names of the values on that scale, be it for some of their readers alone (see `Graph.edges`). roots: those
    to observe; their merged sketch solves the config. (The others repeat, move or drop numbers of the roots.)
    """

    config: TensorQuantizationConfig
    values: list[str] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)


class Graph:
    """A float ONNX model, and the quantization of its values. Made by `load_onnx_graph`, filled by `quantize_graph`.

    model: the working model: an onnx_ir model whose nodes and values all have unique names.
    path: the file it came from, or None. source_inputs, source_outputs: names as in that file; never changed.
    fingerprint: sha256 of the model as it was loaded, weights included.
    platform: what it is quantized for; None before.
    mask: the input that says which positions of a padded batch count in statistics; None: all. See `name_mask`.

    groups: every scale to be calibrated, once.
    float_outputs: outputs that the runtime's integer operators give in float, with the config that `quantize_output`
        would put on them.
    edges: (node name, input index) -> what that reader has of its own: the config of a weight or a bias (always here,
        never on the value), an activation config that differs from the value's, or one in state FP32: it reads the
        float value. Edges of one value that hold the same object share one Q/DQ pair.
    streams: whose channels are to be equalized before scales are found. undoing: what takes rescalings back, in order.
    rescalings: the streams whose channels were divided -> the factors.
    calibrated_samples: over how many samples its scales were found. provenance: what exporters write into metadata.
    operations: name of each node that runs on integers -> names of the activations that run inside of it.
    left_in_float: node name -> why. report: sentences on what was changed, raised or left out, for the summary.

    A value with a config is quantized once, after its producer; its readers take the dequantized value unless their
    edge says otherwise. A graph output with a config is the dequantized value.
    """

    def __init__(self, model: ir.Model, path: Path | None, fingerprint: str) -> None:
        self.model = model
        self.path = path
        self.fingerprint = fingerprint
        self.platform: TargetPlatform | None = None
        self.source_inputs = [v.name or "" for v in model.graph.inputs]
        self.source_outputs = [v.name or "" for v in model.graph.outputs]
        self.report: list[str] = []
        self._notes: list[str] = []
        self.undoing: list[Callable[[], None]] = []
        self.rescalings: dict[Stream, NDArray[np.float64]] = {}
        self._index: dict[str, ir.Value] = {}
        self._nodes: dict[str, ir.Node] = {}
        self._changed: dict[str, ir.Value] = {}
        self.clear_quantization()

    def clear_quantization(self) -> None:
        """Forget every config, undo every change of a constant and every rescaling: the model is as it was loaded."""
        for value in self._changed.values():
            value.const_value = value.meta.pop(ORIGINAL)
        self._changed = {}
        self.undo_rescaling()
        self.platform = None
        self.mask: str | None = None
        self.report = [line for line in self.report if line not in self._notes]
        self._notes = []
        self.configs: dict[str, TensorQuantizationConfig] = {}
        self.groups: list[ScaleGroup] = []
        self.float_outputs: list[ScaleGroup] = []
        self.edges: dict[tuple[str, int], TensorQuantizationConfig] = {}
        self.operations: dict[str, list[str]] = {}
        self.left_in_float: dict[str, str] = {}
        self.streams: list[Stream] = []
        self.calibrated_samples = 0
        self.provenance: dict[str, str] = {}

    def undo_rescaling(self, since: int = 0) -> None:
        """Give the weights what they had before `rescale`, to the last bit; its Muls go.

        since: the length of `undoing` at that time; 0: before any.
        """
        while len(self.undoing) > since:
            self.undoing.pop()()

    @property
    def rescaled(self) -> dict[str, list[float]]:
        """First value of each stream whose channels were divided where they are made -> the factors."""
        made = {stream: factors for stream, factors in self.rescalings.items() if not stream.inserted}
        return {stream.values[0]: [float(factor) for factor in factors] for stream, factors in made.items()}

    def note(self, sentence: str) -> None:
        """Add to the report what holds for this quantization; `clear_quantization` takes it out again."""
        self.report.append(sentence)
        self._notes.append(sentence)

    def constant(self, name: str) -> NDArray[Any]:
        """What the quantized model reads of that constant: see `change_constant`. ModelError when there is none."""
        return np.asarray(self._tensor(name).numpy())

    def change_constant(self, name: str, array: NDArray[Any]) -> None:
        """What the quantized model reads instead of that constant, of the same shape: a weight that was rounded, say.

        The float model keeps what it has, in `original` and in every executor; `clear_quantization` puts it back.
        Raises ModelError when there is no such constant.
        """
        value, tensor = self.value(name), self._tensor(name)
        value.meta.setdefault(ORIGINAL, tensor)
        self._changed.setdefault(name, value)
        value.const_value = ir.Tensor(np.ascontiguousarray(array, tensor.dtype.numpy()), name=name)

    def _tensor(self, name: str) -> ir.TensorProtocol:
        tensor = self.value(name).const_value
        if tensor is None:
            raise ModelError(f"'{name}' is no constant of the model")
        return tensor

    @property
    def changed_constants(self) -> list[str]:
        """The constants that `change_constant` was called for."""
        return list(self._changed)

    def as_read(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The constant as the quantized model reads it; where all who read it were put back into float, the original.

        None for a value that is no constant.
        """
        readers = [use.node.name for use in value.uses()]
        return original(value) if readers and all(map(self._has_float_weight, readers)) else value.const_value

    def _has_float_weight(self, node_name: str | None) -> bool:
        """Whether a constant of that node has a config, other than a bias's, that was put back into float."""
        return any(
            name == node_name
            and config.state is QuantizationStates.FP32
            and not config.is_bias
            and (value := self.node(name).inputs[index]) is not None
            and value.const_value is not None
            for (name, index), config in self.edges.items()
        )

    def quantized_model(self) -> ir.Model:
        """A copy of the working model, its constants as `as_read` has them."""
        model = self.model.clone()
        for name, value in self._changed.items():
            model.graph.initializers[name].const_value = self.as_read(value)
        return model

    def float_model(self) -> ir.Model:
        """The working model with its constants as they were; the model itself where none was changed."""
        if not self._changed:
            return self.model
        model = self.model.clone()
        for name, value in self._changed.items():
            model.graph.initializers[name].const_value = original(value)
        return model

    @property
    def opset(self) -> int:
        """The version of the standard operators that the working model uses."""
        return self.model.opset_imports[""]

    def quantize_output(self, group: ScaleGroup) -> None:
        """Quantize one of `float_outputs` after all: from now on it is one of `groups`."""
        self.float_outputs.remove(group)
        self.groups.append(group)
        self.configs.update(dict.fromkeys(group.values, group.config))

    def move_config(self, value_name: str, to: str) -> None:
        """Give the config of a value, and its place in `groups`, to another value."""
        if value_name in self.configs:
            self.configs[to] = self.configs.pop(value_name)
        for group in self.groups:
            group.values = [to if name == value_name else name for name in group.values]
            group.roots = [to if name == value_name else name for name in group.roots]

    def config_of(self, value_name: str) -> TensorQuantizationConfig | None:
        """The config with which that value is quantized after its producer; None: it stays as it is."""
        return self.configs.get(value_name)

    def config_read(self, node: ir.Node, index: int) -> TensorQuantizationConfig | None:
        """The config by which that node reads its input: its own on that edge, else the value's; None: as it is.

        An edge in state OVERLAPPED leaves the decision to the value's config.
        """
        config = self.edges.get((node.name or "", index))
        if config is None or config.state is QuantizationStates.OVERLAPPED:
            value = node.inputs[index] if index < len(node.inputs) else None
            config = None if value is None else self.config_of(value.name or "")
        return None if config is None or config.state in IN_FLOAT else config

    def node(self, name: str) -> ir.Node:
        """The node of that name, of the main graph. Raises ModelError when there is none."""
        if name not in self._nodes:
            self._nodes = {n.name or "": n for n in self.model.graph}
        if name not in self._nodes:
            raise ModelError(f"the model has no node '{name}'")
        return self._nodes[name]

    def value(self, name: str) -> ir.Value:
        """The value of that name, of the main graph. Raises ModelError when there is none."""
        if name not in self._index:
            self._index = {v.name or "": v for v in self.values()}
        if name not in self._index:
            raise ModelError(f"the model has no value '{name}'")
        return self._index[name]

    def values(self) -> Iterator[ir.Value]:
        """Inputs, initializers, and what each node of the main graph makes, in that order."""
        graph = self.model.graph
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from (v for v in node.outputs if v.name)

    def dtype_of(self, value_name: str) -> ir.DataType | None:
        """The element type; None where neither the model nor shape inference knows it."""
        return self.value(value_name).dtype

    def shape_of(self, value_name: str) -> list[int | str | None] | None:
        """Each dimension as a number, a symbol, or None; None altogether where the rank is not known."""
        shape = self.value(value_name).shape
        return None if shape is None else [d if isinstance(d, int) else d.value for d in shape]

    def channel_axis_of(self, value_name: str) -> int | None:
        """The axis along which this value has channels of their own.

        1 where a Conv made it or the rank is 4 and more; the last of rank 2 and 3. None where that dimension is not
        a fixed number, or the rank is unknown, or less than 2; and where it is as long as masked sequences are.
        """
        axis = channel_axis(self.value(value_name))
        if axis is None or self.mask is None:
            return axis
        shape, positions = self.shape_of(value_name), self.shape_of(self.mask)
        is_masked = shape is not None and positions is not None and shape[axis] == positions[1]
        return None if is_masked else axis

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs of the working model; initializers are not among them."""
        return names(self.model.graph.inputs)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs of the working model."""
        return names(self.model.graph.outputs)

    @property
    def floating_outputs(self) -> list[str]:
        """Names of the outputs whose elements are floats, as far as is known. Others are equal or not, never near."""
        return [name for name in self.output_names if (kind := self.dtype_of(name)) is None or kind.is_floating_point()]

    def input_of(self, node_name: str, index: int) -> str:
        """The value that this node reads there. Raises ModelError when the node, or that input, does not exist."""
        inputs = self.node(node_name).inputs
        value = inputs[index] if 0 <= index < len(inputs) else None
        if value is None:
            raise ModelError(f"node '{node_name}' has no input {index}")
        return value.name or ""

    def is_parameter(self, value_name: str) -> bool:
        """Whether the value is a constant of the model (an initializer)."""
        return self.value(value_name).const_value is not None

    def outputs_of_type(self, op_type: str) -> list[str]:
        """The first output of every node of that type, in order."""
        return [n.outputs[0].name or "" for n in self.model.graph if n.op_type == op_type]

    def _repr_html_(self) -> str:
        """What a notebook shows: the operations in their order, and how each is quantized."""
        name = self.path.name if self.path is not None else "a model"
        caption = f"{name}, {f'for {self.platform.name}' if self.platform is not None else 'not quantized'}"
        rows = ([node.name or "", node.op_type, *self._in_words(node)] for node in self.model.graph)
        return html_table(caption, ["operation", "type", "what it makes", "in float because"], rows)

    def _in_words(self, node: ir.Node) -> tuple[str, str]:
        """How what the node makes is quantized, and why the node stays in float."""
        words = []
        for name in (value.name or "" for value in node.outputs):
            config = self.config_of(name)
            if config is not None:
                kind = f"{'int' if config.is_signed else 'uint'}{config.num_of_bits}"
                words.append(f"{name}: {kind} by {config.observer_algorithm}, {config.state.name}")
        return "; ".join(words), self.left_in_float.get(node.name or "", "")

    def forget_index(self) -> None:
        """To be called after nodes or values were added, removed or renamed."""
        self._index, self._nodes = {}, {}

    def to_bytes(self) -> bytes:
        """The float working model, serialized. Raises ModelError above 2 GB: use `save_float`."""
        if self.weight_bytes > PROTOBUF_LIMIT:
            raise ModelError(f"{self.weight_bytes} bytes of weights do not fit one protobuf message: use save_float")
        return bytes(ir.to_proto(self.float_model()).SerializeToString())

    def save_float(self, path: str | Path) -> None:
        """Write the float working model; above 2 GB the weights go to `<name>.data` beside it."""
        target = Path(path)
        big = self.weight_bytes > PROTOBUF_LIMIT
        ir.save(self.float_model(), target, format="protobuf", external_data=f"{target.name}.data" if big else None)

    @property
    def weight_bytes(self) -> int:
        """The size of all initializers, those of subgraphs included."""
        return sum(tensor_bytes(g) for g in self.model.graphs())


def original(value: ir.Value) -> ir.TensorProtocol | None:
    """The constant as the float model has it: see `Graph.change_constant`. None for a value that is none."""
    tensor: ir.TensorProtocol | None = value.meta.get(ORIGINAL, value.const_value)
    return tensor


def tensor_bytes(graph: ir.Graph) -> int:
    """The size of that graph's own initializers."""
    return sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)


def names(values: Iterable[ir.Value]) -> list[str]:
    """Their names, in order."""
    return [v.name or "" for v in values]
