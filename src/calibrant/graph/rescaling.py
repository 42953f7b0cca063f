"""Dividing the channels of a stream by factors, in the weights around it; and taking that back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.graph.axes import channel_axis
from calibrant.graph.streams import Stream, find_streams, smoothed_name
from calibrant.graph.weights import by_input, by_output

if TYPE_CHECKING:
    from calibrant.graph.graph import Graph

Factors = NDArray[np.float64]


def rescale(graph: Graph, chosen: Mapping[Stream, Factors]) -> None:
    """Divide channel c of every value of a stream by factors[c]; the model computes what it computed before.

    That holds while no value is above one of the stream's ceilings that was not so before.

    chosen: of each stream its factors, (channels,), positive and finite. Up to the rounding of floats, that is; with
    powers of two bit for bit, while nothing becomes subnormal. An inserted stream gets a Mul, whose output takes the
    place of the value in the configs of `graph`. `graph.undo_rescaling` takes all of it back.
    """
    before = dict(graph.rescalings)

    def undo() -> None:
        graph.rescalings = before

    graph.undoing.append(undo)
    for stream, factors in chosen.items():
        for name in stream.writers:
            node = graph.node(name)
            _scale_outputs(graph, node, 1 / factors)
        for name, index in stream.constants:
            _scale_constant(graph, graph.node(name), index, 1 / factors)
        for name in stream.readers:
            _scale_weight(graph, graph.node(name), by_input(graph.node(name), factors))
        if stream.inserted:
            _insert_mul(graph, stream, factors)
        graph.rescalings[stream] = factors * graph.rescalings.get(stream, 1.0)


def rescale_as(graph: Graph, rescaled: Mapping[str, Sequence[float]]) -> None:
    """Divide the streams of a float graph as another graph of the same model was; those it does not have are left."""
    streams = {stream.values[0]: stream for stream in find_streams(graph.model.graph)}
    known = {streams[name]: np.array(factors) for name, factors in rescaled.items() if name in streams}
    rescale(graph, {stream: factors for stream, factors in known.items() if factors.shape == (stream.channels,)})


def _scale_outputs(graph: Graph, node: ir.Node, factors: Factors) -> None:
    _scale_weight(graph, node, by_output(node, factors))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        _replace(graph, node.inputs[2], _numbers(node.inputs[2]) * factors)


def _scale_weight(graph: Graph, node: ir.Node, factors: Factors) -> None:
    weight = node.inputs[1]
    assert weight is not None
    _replace(graph, weight, _numbers(weight) * factors)


def _scale_constant(graph: Graph, node: ir.Node, index: int, factors: Factors) -> None:
    """A constant that is added to a stream; one number for all channels becomes one for each."""
    constant, out = node.inputs[index], node.outputs[0]
    assert constant is not None
    behind = len(out.shape or ()) - 1 - (channel_axis(out) or 0)
    _replace(graph, constant, _numbers(constant) * factors.reshape(-1, *[1] * behind))


def _insert_mul(graph: Graph, stream: Stream, factors: Factors) -> None:
    """A Mul by 1 / factors between the value and its readers; the configs move along."""
    model, value = graph.model.graph, graph.value(stream.values[0])
    name = smoothed_name(stream.values[0])
    behind = len(value.shape or ()) - 1 - (channel_axis(value) or 0)
    numbers = ir.tensor((1 / factors).astype(np.float32).reshape(-1, *[1] * behind), name=f"{name}_factors")
    constant = ir.Value(name=numbers.name, type=value.type, shape=ir.Shape(numbers.shape.numpy()), const_value=numbers)
    node = ir.Node("", "Mul", [value, constant], name=name)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, value.type, value.shape
    model.register_initializer(constant)
    producer = value.producer()
    assert producer is not None
    model.insert_after(producer, node)
    readers = [graph.node(reader) for reader in stream.readers]
    for reader in readers:
        reader.replace_input_with(0, node.outputs[0])

    def undo() -> None:
        for reader in readers:
            reader.replace_input_with(0, value)
        model.remove(node, safe=True)
        del model.initializers[str(constant.name)]
        graph.forget_index()
        graph.move_config(name, value.name or "")

    graph.forget_index()
    graph.undoing.append(undo)
    graph.move_config(stream.values[0], name)


def _numbers(value: ir.Value | None) -> Factors:
    return np.asarray(value.const_value.numpy(), np.float64)  # type: ignore[union-attr]


def _replace(graph: Graph, constant: ir.Value | None, numbers: Factors) -> None:
    assert constant is not None
    before, shape = constant.const_value, constant.shape

    def undo() -> None:
        constant.const_value, constant.shape = before, shape

    constant.const_value = ir.tensor(np.asarray(numbers, np.float32), name=constant.name)
    constant.shape = ir.Shape(numbers.shape)
    graph.undoing.append(undo)
