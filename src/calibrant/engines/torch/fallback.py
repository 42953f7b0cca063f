"""What torch is not asked for: single nodes, run by onnxruntime on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from calibrant.core import ModelError
from calibrant.engines.session import Runtime, run
from calibrant.engines.working import part_of

T = ir.DataType
# Types that onnxruntime's Python side cannot hold, and the wider one in which it is given them; Cast does the rest.
_CARRIERS = {
    T.BFLOAT16: T.FLOAT,
    T.FLOAT8E4M3FN: T.FLOAT,
    T.FLOAT8E4M3FNUZ: T.FLOAT,
    T.FLOAT8E5M2: T.FLOAT,
    T.FLOAT8E5M2FNUZ: T.FLOAT,
    T.FLOAT4E2M1: T.FLOAT,
    T.INT4: T.INT8,
    T.UINT4: T.UINT8,
    T.INT2: T.INT8,
    T.UINT2: T.UINT8,
}
_BY_TEXT = {f"tensor({kind.name.lower()})": kind for kind in _CARRIERS}


class Fallback:
    """Runs nodes of `model` one by one. A session is kept for each node and the types of its inputs.

    Some operators (those that onnxruntime makes of others) want to know shapes before they run: where a node fails, it
    is tried once more in a session for these shapes alone.
    """

    def __init__(self, model: ir.Model, threads: int) -> None:
        self._model = model
        self._runtime = Runtime.of(None, threads)
        self._sessions: dict[tuple[ir.Node, tuple[str, ...]], _Session] = {}

    def run(self, node: ir.Node, inputs: Sequence[Any], around: Mapping[str, Any]) -> list[Any]:
        """The node's outputs, None for one left out. around: what its graphs read from outside of them, by name.

        Values are numpy arrays, or lists of them. Raises ModelError where onnxruntime does not know the node, or
        fails at it.
        """
        feed = dict(around)
        for value, array in zip(node.inputs, inputs, strict=True):
            if value is not None and array is not None:
                feed[value.name or ""] = array
        try:
            values = self._session(node, feed, with_shapes=False).run(feed)
        except ModelError:
            values = self._session(node, feed, with_shapes=True).run(feed)
        return [values.get(value.name or "") for value in node.outputs]

    def _session(self, node: ir.Node, feed: Mapping[str, Any], with_shapes: bool) -> _Session:
        types = tuple(str(_type_of(array, with_shapes)) for array in feed.values())
        if (node, types) not in self._sessions:
            self._sessions[node, types] = _Session(self._model, self._runtime, node, feed, with_shapes)
        return self._sessions[node, types]


class _Session:
    """One node, as a model of its own."""

    def __init__(
        self, model: ir.Model, runtime: Runtime, node: ir.Node, feed: Mapping[str, Any], with_shapes: bool
    ) -> None:
        self._with_shapes = with_shapes
        self._names = [value.name for value in node.outputs if value.name]
        self._model = model
        self._node = node
        self._session = runtime.open(self._serialized(feed, {}))
        types = {output.name: output.type for output in self._session.get_outputs()}
        self._narrow = {name: _BY_TEXT[text] for name, text in types.items() if text in _BY_TEXT}
        if self._narrow:
            self._session = runtime.open(self._serialized(feed, self._narrow))

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        given = {_given(name, array): _carried(array) for name, array in feed.items()}
        asked = [f"{name}:wide" if name in self._narrow else name for name in self._names]
        found = dict(zip(self._names, run(self._session, asked, given), strict=True))
        return {
            name: np.asarray(array).astype(self._narrow[name].numpy()) if name in self._narrow else array
            for name, array in found.items()
        }

    def _serialized(self, feed: Mapping[str, Any], narrow: Mapping[str, ir.DataType]) -> bytes:
        """The node with its inputs made of what can be given, and its outputs into what can be taken."""
        before = [
            helper.make_node("Cast", [_given(name, array)], [name], to=int(kind))
            for name, array in feed.items()
            if (kind := _kind_of(array)) is not None
        ]
        after = [
            helper.make_node("Cast", [name], [f"{name}:wide"], to=int(_CARRIERS[kind])) for name, kind in narrow.items()
        ]
        outputs = [f"{name}:wide" if name in narrow else name for name in self._names]
        graph = helper.make_graph(
            [*before, ir.to_proto(self._node), *after],
            "one_node",
            [
                helper.make_value_info(_given(name, array), _type_of(_carried(array), self._with_shapes))
                for name, array in feed.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
        )
        return part_of(self._model, graph)


def _kind_of(array: Any) -> ir.DataType | None:
    """The type that needs a carrier; None for any other value."""
    if not isinstance(array, np.ndarray) or array.dtype.kind in "OUS":
        return None
    kind = ir.DataType.from_numpy(array.dtype)
    return kind if kind in _CARRIERS else None


def _given(name: str, array: Any) -> str:
    return name if _kind_of(array) is None else f"{name}:given"


def _carried(array: Any) -> Any:
    kind = _kind_of(array)
    return array if kind is None else array.astype(_CARRIERS[kind].numpy())


def _type_of(array: Any, with_shape: bool) -> onnx.TypeProto:
    if isinstance(array, list):
        inner = _type_of(array[0], False) if array else helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
        return helper.make_sequence_type_proto(inner)
    if not isinstance(array, np.ndarray):
        raise ModelError(f"a value of type {type(array).__name__} cannot be given to onnxruntime")
    kind = onnx.TensorProto.STRING if array.dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_type_proto(kind, array.shape if with_shape else None)
