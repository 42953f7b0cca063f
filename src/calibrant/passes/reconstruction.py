"""BlockwiseReconstructionPass: weights and biases are chosen by what they do to the output of their layer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import fake_quantize
from calibrant.core.arithmetic import SMALLEST_SCALE
from calibrant.engines.stepping import Stepping, peak_bytes
from calibrant.graph.graph import PROTOBUF_LIMIT, original
from calibrant.passes.ahead import Ahead, less
from calibrant.passes.base import parameter_of
from calibrant.passes.grid_rounding import fitted
from calibrant.passes.linear import Linear, linear_layers
from calibrant.passes.moments import Moments
from calibrant.passes.optimization import HOLD_OUT, OptimizationPass, is_held

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.engines import Executor
    from calibrant.engines.samples import Feed
    from calibrant.graph import Graph

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
Array = NDArray[Any]

PLACES = 1024  # of each sample's output: more hardly tell more
MEMORY = 1 << 30  # bytes that the values of all samples may take
RIDGES = (10.0, 1.0, 1e-1, 1e-2)  # of the mean diagonal element of H
LEAST_DAMPING = 1e-3  # likewise
EXACT = 1e-6  # of the power of an output: an error that needs no lessening


class BlockwiseReconstructionPass(OptimizationPass):
    """Choose the integers of each weight, its scale and its bias so that the layer's output stays what it was.

    interested_layers: node names, op types or regular expressions; empty: all.

    Layer by layer, in the order of the model, least is wanted of the mean of |y - W x - b|^2, where y is the layer's
    output in the float model and x what it reads in the quantized one, whose layers before are done. So a layer makes
    up for the error that reaches it, as far as a linear one can. Where an Add takes the output together with a value
    that is there already (a residual), y is what makes their sum right.

    1. The error depends on W through H = x x^T and C = y x^T alone, with the means taken out where the bias may change
       (Moments). Its least is at W* = W + (C - W H) (H + r I)^-1: r, a share of H's mean diagonal element, keeps W*
       near W as far as samples are too few to tell.
    2. W* goes onto the grid so that (W* - s q) (H + d I) (W* - s q)^T is small, by GPTQ and coordinate descent, s
       by trying and least squares (`fitted`). d: what chance makes of H, see `damped`.
    3. The bias makes the mean right.
    4. Samples weigh by the inverse of their error before: a few of huge values would decide for all others.
    5. Every fourth sample is held out. Of the r, and of W as it is, the one whose W* errs least on those is taken:
       before it is rounded, so that chance in rounding has no part in it. What errs more on those than the weight as
       it was, or than a bias alone, is dropped.
    6. What does not lessen the error at the model's outputs on those, all further on in float, is dropped, and the
       layer is solved again with W for W*. (In a model of more than 2 GB that is not looked at.)
    7. At the end the outputs of the model are looked at on what was held out (`OptimizationPass`). So nothing is solved
       for on that: layer after layer can be nearer to the float model on samples that they were solved for, and further
       away on others.

    Frantar et al., 2022 (arXiv 2210.17323); Behdin et al., 2023 (QuantEase, arXiv 2309.01885, coordinate descent);
    Li et al., 2025 (GPTAQ, arXiv 2504.02692, quantized inputs and float outputs).

    For the weights of Conv, Gemm and MatMul that one node reads (`linear_layers`), of 8 bits or less. At most as many
    samples are looked at as MEMORY holds the values of.
    """

    name = "BlockwiseReconstructionPass"

    def __init__(self, interested_layers: Sequence[str] = ()) -> None:
        self.interested_layers = list(interested_layers)

    def layers(self, graph: Graph, samples: Sequence[Feed], executor: Executor) -> Iterator[tuple[int, int]]:
        layers = {layer.node: layer for layer in linear_layers(graph, self.interested_layers)}
        feeds = samples[: affordable(graph, samples[0])]
        ahead = Ahead.at_outputs(graph, feeds, executor) if graph.weight_bytes <= PROTOBUF_LIMIT else None
        threads = executor.threads
        with Stepping(graph, feeds, False, threads) as exact, Stepping(graph, feeds, True, threads) as rough:
            yield from self._improve(graph, layers, exact, rough, ahead, threads)

    def _improve(
        self,
        graph: Graph,
        layers: Mapping[ir.Node, Linear],
        exact: Stepping,
        rough: Stepping,
        ahead: Ahead | None,
        threads: int,
    ) -> Iterator[tuple[int, int]]:
        done = 0
        for node in graph.model.graph:
            layer = layers.get(node)
            if layer is None:
                exact.step(node)
            else:
                seen = Seen(graph, layer, rough.read(node, 0), residual(node, exact, rough))
                exact.step(node, seen.look)
                check = None if ahead is None else Check(layer.node, ahead, rough)
                for ridges in (RIDGES, ()):
                    undo = improve(graph, layer, seen.train, seen.held, threads, ridges)
                    if undo is None or check is None or check.is_better():
                        break
                    undo()
                done += 1
                yield done, len(layers)
            rough.step(node)


def affordable(graph: Graph, feed: Feed) -> int:
    """How many samples like this one can be kept at every node, in float and quantized."""
    return max(1, MEMORY // (2 * peak_bytes(graph, [feed])))


def residual(node: ir.Node, exact: Stepping, rough: Stepping) -> list[Array] | None:
    """Where an Add alone reads what the node makes, how far off the other value is that it reads, if it is there."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    adding, index = uses[0].node, 1 - uses[0].idx
    if not (exact.is_there(adding, index) and rough.is_there(adding, index)):
        return None
    return [a - b for a, b in zip(exact.read(adding, index), rough.read(adding, index), strict=True)]


class Seen:
    """The moments of a layer, of the samples to choose by and of those held out.

    data: what the layer reads in the quantized model, of each sample. missing: what its output is to make up for.
    Sums of floats depend on their order: they are made in that of the samples, whichever comes first.
    """

    def __init__(self, graph: Graph, layer: Linear, data: Sequence[Array], missing: Sequence[Array] | None) -> None:
        self._layer, self._data, self._missing = layer, data, missing
        self._lock = threading.Lock()
        self._waiting: dict[int, list[tuple[Moments, Array, Array, float]]] = {}  # for samples before them
        self._added = 0
        weight = fake_quantize(graph.constant(layer.weight_name), layer.config)
        self._rows = layer.rows(weight)
        groups, outputs, size = self._rows.shape
        self._bias = _bias(layer, (groups, outputs)).astype(np.float32)
        self.train, self.held = (Moments.zero(groups, outputs, size) for _ in range(2))

    def look(self, number: int, output: Array) -> None:
        """Take in the float output of that sample, at PLACES that are drawn. Several at a time, each sample once."""
        if self._missing is not None and self._missing[number].shape == output.shape:
            output = output + self._missing[number]
        count = self._layer.count(output)
        places = np.arange(count)
        if count > PLACES:
            places = np.sort(np.random.default_rng(number).choice(count, PLACES, replace=False))
        found = []
        for moments, some in self._parts(number, places):
            columns = self._layer.columns(self._data[number], output, some)
            values = self._layer.values(output, some)
            found.append((moments, columns, values, 1 / self._error(columns, values)))
        with self._lock:
            self._waiting[number] = found
            while self._added in self._waiting:
                for moments, columns, values, weight in self._waiting.pop(self._added):
                    moments.add(columns, values, weight)
                self._added += 1

    def _error(self, columns: Array, values: Array) -> float:
        """The mean squared error as it is. Samples weigh by its inverse: not one, of huge values, for all others."""
        off = values - self._rows @ columns - self._bias[..., None]
        return float((off**2).mean() + EXACT * (values**2).mean()) + SMALLEST_SCALE

    def _parts(self, number: int, places: NDArray[np.int64]) -> list[tuple[Moments, NDArray[np.int64]]]:
        """Whole samples are held out; of less than HOLD_OUT samples, which may be batches, the last part of each."""
        if len(self._data) >= HOLD_OUT:
            return [(self.held if is_held(number, len(self._data)) else self.train, places)]
        cut = places.size - places.size // HOLD_OUT
        parts = [(self.train, places[:cut]), (self.held, places[cut:])]
        return [(moments, some) for moments, some in parts if some.size]


@dataclass(frozen=True)
class Choice:
    """A weight on its grid as rows, its bias, and its scale; None: the one it has."""

    rows: F64
    bias: F64
    scale: NDArray[np.float32] | None = None


def improve(
    graph: Graph, layer: Linear, train: Moments, held: Moments, threads: int = 1, ridges: Sequence[float] = RIDGES
) -> Callable[[], None] | None:
    """Change weight, bias and scale of the layer where that lessens the error on what is held out; what undoes that,
    or None where nothing changed. ridges: of the W* to choose from, beside W."""
    held = held if held.count else train  # of a few places alone
    floats = layer.rows(np.asarray(original(graph.value(layer.weight_name)).numpy(), np.float64))  # type: ignore[union-attr]
    now = layer.rows(fake_quantize(graph.constant(layer.weight_name), layer.config)).astype(np.float64)
    bias = _bias(layer, now.shape[:2])
    fixed = None if layer.bias_name else bias

    def beside(rows: F64) -> F64:
        return train.best_bias(rows) if fixed is None else fixed

    def error(rows: F64, beside_them: F64) -> float:
        return float(held.error(rows, beside_them).sum())

    targets, choices = [floats], [Choice(now, bias), Choice(now, beside(now))]
    with suppress(np.linalg.LinAlgError):  # H of inputs that hardly vary
        targets += [pulled(train, floats, fixed, ridge) for ridge in ridges]
        target = min(targets, key=lambda rows: error(rows, beside(rows)))
        rows, scale = fitted(target, damped(train, fixed), layer.config, threads)
        choices.append(Choice(rows, beside(rows), scale))
    errors = [error(choice.rows, choice.bias) for choice in choices]
    best = choices[int(np.argmin(errors))]
    log.info("%s: error %.3g, before %.3g", layer.node.name, min(errors), errors[0])
    if best is choices[0]:
        return None
    undo = undoing(graph, layer)
    if best.scale is not None:
        layer.config.scale = best.scale
    graph.change_constant(layer.weight_name, layer.weight(best.rows))
    if layer.bias_name:
        graph.change_constant(layer.bias_name, best.bias.reshape(-1))
    return undo


def undoing(graph: Graph, layer: Linear) -> Callable[[], None]:
    """What gives the layer the weight, bias and scale back that it has now."""
    constants = {name: graph.constant(name) for name in (layer.weight_name, layer.bias_name) if name}
    scale = layer.config.scale

    def undo() -> None:
        layer.config.scale = scale
        for name, constant in constants.items():
            graph.change_constant(name, constant)

    return undo


class Check:
    """Whether a change of a node brings the model's outputs nearer to the float model's, on what is held out."""

    def __init__(self, node: ir.Node, ahead: Ahead, rough: Stepping) -> None:
        self._node, self._ahead, self._rough = node, ahead, rough
        self._remainder = ahead.from_here(node, node.outputs[0])
        self._before = self._errors()

    def is_better(self) -> bool:
        return less(self._errors(), self._before)

    def _errors(self) -> F64:
        made = self._rough.look_ahead(self._node)
        numbers = [n for n in range(len(made)) if is_held(n, len(made))] or list(range(len(made)))
        return self._ahead.errors(
            self._remainder, self._rough, self._node.outputs[0], lambda number, _: made[number], numbers
        )


def pulled(moments: Moments, rows: F64, fixed: F64 | None, ridge: float) -> F64:
    """W*: see BlockwiseReconstructionPass. fixed: the bias, where it stays."""
    h, c = moments.quadratic(fixed)
    change = np.linalg.solve(_raised(h, ridge), (c - rows @ h).transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.asarray(rows + change)


def damped(moments: Moments, fixed: F64 | None) -> F64:
    """The H to round by, raised by K over the number of independent places: by as much as chance alone makes of it."""
    h, _ = moments.quadratic(fixed)
    return _raised(h, min(1.0, max(LEAST_DAMPING, h.shape[1] / moments.independent)))


def _raised(h: F64, share: float) -> F64:
    """H with that share of its mean diagonal element added to the diagonal, of each group."""
    mean = np.einsum("gkk->g", h) / h.shape[1]
    floor = max(float(mean.max()) * 1e-6, SMALLEST_SCALE)  # a group that is always zero
    return np.asarray(h + (share * np.maximum(mean, floor))[:, None, None] * np.eye(h.shape[1]))


def _bias(layer: Linear, shape: tuple[int, ...]) -> F64:
    """The node's bias, (groups, outputs); zeros where there is none."""
    values = parameter_of(layer.node, 2)
    flat = np.zeros(1) if values is None else values.astype(np.float64).reshape(-1)
    return np.broadcast_to(flat, (shape[0] * shape[1],)).reshape(shape)
