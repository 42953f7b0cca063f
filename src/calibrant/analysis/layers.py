"""Which layer of a quantized model does the damage: each by itself, and by what it does to the outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.analysis.measures import Difference
from calibrant.analysis.models import OpenPair
from calibrant.analysis.pairs.chain import Chain, Side, State, UnusableLayer
from calibrant.analysis.pairs.cutting import Layer, cut
from calibrant.analysis.pairs.matching import Pair, match
from calibrant.analysis.pairs.view import read_pair
from calibrant.core import ModelError

log = logging.getLogger(__name__)

Feed = Mapping[str, NDArray[Any]]
OnRun = Callable[[int, int], None]
RESTORED = 10  # layers whose gain in float is measured
_MOST_UNUSABLE = 32


@dataclass
class LayerError:
    """What one layer of the second model does, compared with the first model's.

    name, kind: its node in the first model, and that node's operator with those that are one with it, as `Conv+Relu`;
        an input of the model is a layer of its own, of the kind `input`.
    value: its result, as the first model calls it.
    own: of its result, computed from the first model's exact values.
    accumulated: of its result in the second model, everything before it included.
    alone: of the model's outputs if this layer alone is as the second model has it, and all others are exact.
    restored_db: of the layers with the largest error, SQNR of the outputs if this layer alone is exact and all others
        are as the second model has them; None for the others.
    """

    name: str
    kind: str
    value: str
    own: Difference = field(default_factory=Difference)
    accumulated: Difference = field(default_factory=Difference)
    alone: Difference = field(default_factory=Difference)
    restored_db: float | None = None


@dataclass
class LayerErrors:
    """Of every layer its errors, in the order of the first model.

    simulated: of the outputs, with every layer as the second model has it, computed in float between its quantizations.
    measured: on how many of the samples `alone` and `restored_db` are found, the same ones whatever their order.
    base_db: the outputs' SQNR in dB on these. unmatched: operators with weights of the first model that have no
        counterpart.
    """

    layers: list[LayerError] = field(default_factory=list)
    simulated: Difference = field(default_factory=Difference)
    measured: int = 0
    base_db: float = float("nan")
    unmatched: list[str] = field(default_factory=list)

    @property
    def worst(self) -> list[LayerError]:
        """The layers that do something to the outputs, the one that does most first."""
        return sorted((one for one in self.layers if one.alone.relative != 0), key=_badness, reverse=True)


def _badness(layer: LayerError) -> tuple[bool, float]:
    broken = np.isnan(layer.alone.relative)
    return bool(broken), 0.0 if broken else layer.alone.relative


class LayerComparison:
    """Compares the layers of a pair, sample by sample. `found` is the result so far. pool: what computes layers.

    Raises ModelError where no layer of the two models corresponds.
    """

    def __init__(self, pair: OpenPair, pool: Executor) -> None:
        self._pair = pair
        self._views = read_pair(*pair.paths)
        self._pairs = match(*self._views, {name: spec.name for name, spec in pair.inputs.items()}, pair.outputs)
        self._pool = pool
        self._chain = self._cut()
        self._errors: dict[Layer, LayerError] = {}
        self.found = LayerErrors()

    def take(self, feed: Feed) -> None:
        """Compare the layers on one sample."""
        exact, quantized = self._states(feed) if self._errors else self._first_states(feed)

        def compare(layer: Layer) -> None:
            error = self._errors[layer]
            reference = exact.first[layer.first.primary]
            error.own.add(reference, self._chain.alone(layer, exact))
            error.accumulated.add(reference, quantized.second[layer.second.primary])

        list(self._pool.map(compare, self._chain.layers))
        _add(self.found.simulated, self._chain.outputs(exact), self._chain.outputs(quantized))

    def measure(self, samples: Sequence[Feed], on_run: OnRun | None = None) -> None:
        """What each layer does to the outputs, on these samples. on_run: called with the runs done, and of all."""
        total = 2 * len(samples)
        base = Difference()
        for number, feed in enumerate(samples):
            exact, quantized = self._states(feed)
            reference = self._chain.outputs(exact)
            _add(base, reference, self._chain.outputs(quantized))
            self._switch(
                self._chain.layers, exact, Side.FIRST, reference, {k: e.alone for k, e in self._errors.items()}
            )
            if on_run is not None:
                on_run(number + 1, total)
        self.found.measured, self.found.base_db = len(samples), base.sqnr_db
        names = {id(error) for error in self.found.worst[:RESTORED]}
        worst = [layer for layer in self._chain.layers if id(self._errors[layer]) in names]
        restored = {layer: Difference() for layer in worst}
        for number, feed in enumerate(samples):
            exact, quantized = self._states(feed)
            self._switch(worst, quantized, Side.SECOND, self._chain.outputs(exact), restored)
            if on_run is not None:
                on_run(len(samples) + number + 1, total)
        for layer, difference in restored.items():
            self._errors[layer].restored_db = difference.sqnr_db

    def _switch(
        self,
        layers: Sequence[Layer],
        state: State,
        computed_by: Side,
        reference: list[NDArray[Any]],
        into: Mapping[Layer, Difference],
    ) -> None:
        """Add to each layer's difference what the outputs are if the other model computes that layer."""

        def switch(layer: Layer) -> None:
            outputs = self._chain.outputs(self._chain.switched(state, computed_by, [layer]))
            _add(into[layer], reference, outputs)

        list(self._pool.map(switch, layers))

    def _states(self, feed: Feed) -> tuple[State, State]:
        return self._chain.states(feed, self._pair.renamed(feed), self._pool)

    def _first_states(self, feed: Feed) -> tuple[State, State]:
        """Those of the first sample, which shows which layers can be compared; the others become part of the next."""
        for _ in range(_MOST_UNUSABLE):
            try:
                states = self._states(feed)
                break
            except UnusableLayer as error:
                log.info("not compared by itself: %s", error)
                self._pairs = [pair for pair in self._pairs if pair is not error.layer.pair]
                self._chain = self._cut()
        else:
            raise ModelError("the layers of the models differ too much to compare them one by one")
        self._errors = {
            layer: LayerError(layer.name, layer.kind, layer.pair.first.name or "") for layer in self._chain.layers
        }
        self.found.layers = list(self._errors.values())
        self.found.unmatched = self._unmatched(self._pairs)
        return states

    def _cut(self) -> Chain:
        layers = cut(*self._views, self._pairs)
        if not layers:
            raise ModelError("no layer of the models corresponds: neither names nor structure agree")
        return Chain(layers, *self._views)

    def _unmatched(self, pairs: Sequence[Pair]) -> list[str]:
        view = self._views[0]
        known = {pair.node for pair in pairs}
        return [node.name or "" for node in view.nodes if view.weighs(node) and node not in known]


def _add(difference: Difference, reference: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
    for one, other in zip(reference, outputs, strict=True):
        difference.add(one, other)
