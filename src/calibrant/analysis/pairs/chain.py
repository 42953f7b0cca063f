"""Both models of a pair, run layer by layer: some layers as one model has them, the others as the other has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.analysis.pairs.cutting import Arrays, Layer, Part
from calibrant.analysis.pairs.view import View
from calibrant.core import ModelError

Feed = Mapping[str, NDArray[Any]]


class Side(Enum):
    """Which of the two models computes a layer."""

    FIRST = 0
    SECOND = 1


@dataclass
class State:
    """All values for one sample, as both models name them: a value that one computes is given to the other.

    inputs: of both models, as they were fed; among the values stands what a model that quantizes them makes of them.
    """

    first: Arrays
    second: Arrays
    inputs: Arrays


class UnusableLayer(ModelError):
    """The layer cannot be computed on its own, or its value has another shape in the other model."""

    def __init__(self, layer: Layer, message: str) -> None:
        super().__init__(message)
        self.layer = layer


class Chain:
    """The layers of a pair, which see to it that what one model computes is what the other goes on with.

    ends: the layers that make the models' outputs, or where those are no floats, what nothing else reads.
    """

    def __init__(self, layers: Sequence[Layer], first: View, second: View) -> None:
        self.layers = list(layers)
        self._first, self._second = first, second
        self._orders = {
            Side.FIRST: self.layers,
            Side.SECOND: sorted(layers, key=lambda layer: _place(layer.pair.second, second)),
        }
        read = {value for layer in layers for value in layer.first.reads}
        ends = [layer for layer in layers if layer.first.primary.is_graph_output()]
        self.ends = ends or [layer for layer in layers if not read & set(layer.first.makes)]
        self._dtypes: dict[ir.Value, np.dtype[Any]] = {}

    def states(self, feed: Feed, other_feed: Feed, pool: Executor) -> tuple[State, State]:
        """All values of the first model, and all of the second, each by itself, for one sample.

        Raises UnusableLayer, naming it, for the first layer that cannot be compared.
        """
        ours = {value: feed[value.name or ""] for value in self._first.model.graph.inputs}
        theirs = {value: other_feed[value.name or ""] for value in self._second.model.graph.inputs}
        exact, quantized = (State(dict(ours), dict(theirs), ours | theirs) for _ in range(2))
        # side by side: most processors have more than one core, and a part runs on one thread
        running = pool.submit(self._run, Side.FIRST, exact), pool.submit(self._run, Side.SECOND, quantized)
        for future in running:
            future.result()
        for layer in self.layers:
            one, two = exact.first[layer.first.primary], quantized.second[layer.second.primary]
            if one.shape != two.shape:
                raise UnusableLayer(
                    layer, f"'{layer.name}' makes {one.shape} in one model and {two.shape} in the other"
                )
        for layer in self.layers:
            self._give(layer, Side.FIRST, exact)
            self._give(layer, Side.SECOND, quantized)
        return exact, quantized

    def alone(self, layer: Layer, state: State) -> NDArray[Any]:
        """What the second model's layer makes of the values of this state."""
        given = state.second if layer.node is not None else state.inputs
        return layer.second.run(given)[layer.second.primary]

    def switched(self, state: State, computed_by: Side, layers: Collection[Layer]) -> State:
        """The values if these layers were computed by the other model than the one that computed all of `state`."""
        changed = State(dict(state.first), dict(state.second), state.inputs)
        dirty: set[ir.Value] = set()
        for layer in self._orders[computed_by]:
            side = _opposite(computed_by) if layer in layers else computed_by
            part = _part(layer, side)
            if layer in layers or any(value in dirty for value in part.reads):
                self._compute(layer, side, changed)
                dirty.update(layer.first.makes, layer.second.makes)
        return changed

    def outputs(self, state: State) -> list[NDArray[Any]]:
        """The values at the ends."""
        return [state.first[layer.first.primary] for layer in self.ends]

    def _run(self, side: Side, state: State) -> None:
        """Everything by one model. Nothing is given to the other."""
        for layer in self._orders[side]:
            try:
                made = _part(layer, side).run(_values(state, side))
            except (ModelError, KeyError) as error:
                raise UnusableLayer(layer, str(error)) from error
            _values(state, side).update(made)
            for value, array in made.items():
                self._dtypes.setdefault(value, array.dtype)

    def _compute(self, layer: Layer, side: Side, state: State) -> None:
        given = _values(state, side) if layer.node is not None else state.inputs
        _values(state, side).update(_part(layer, side).run(given))
        self._give(layer, side, state)

    def _give(self, layer: Layer, computed_by: Side, state: State) -> None:
        """Let the other model have what this one computed."""
        array = _values(state, computed_by)[_part(layer, computed_by).primary]
        other = _opposite(computed_by)
        for value in _part(layer, other).makes:
            _values(state, other)[value] = array.astype(self._dtypes.get(value, array.dtype), copy=False)


def _part(layer: Layer, side: Side) -> Part:
    return layer.first if side is Side.FIRST else layer.second


def _values(state: State, side: Side) -> Arrays:
    return state.first if side is Side.FIRST else state.second


def _opposite(side: Side) -> Side:
    return Side.SECOND if side is Side.FIRST else Side.FIRST


def _place(value: ir.Value, view: View) -> int:
    producer = value.producer()
    return -1 if producer is None else view.position[producer]
