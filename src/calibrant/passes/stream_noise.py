"""What rounding costs around a stream, as far as sketches and weights tell: the measure that equalization lowers.

Noise at the outputs of a reader u = V z of a stream z, per sample, over the power of u, with z' = z / s, V' = V s:

    activations   (clipping + step^2 / 12 of each value of the stream) * |V'|^2
    its weights   sum over outputs o of step(V'_o)^2 / 12 * sum over channels of E[z'_c^2]
    the writers   step(W')^2 / 12 * E[|x|^2] * |V'|^2, where a writer z = W x has one step for all channels

A step is range / (2^bits - 1), of activations with the range at which clipping and rounding together cost least. Errors
count as independent of each other and of the values, and channels as uncorrelated: that is good enough to compare one s
with another. (The additive model of Widrow and Kollar, Quantization Noise, 2008.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import TensorQuantizationConfig
from calibrant.graph import Graph
from calibrant.graph.streams import Stream
from calibrant.graph.weights import seen_by_outputs
from calibrant.passes.calibration import Calibration
from calibrant.sketches import TensorSketch
from calibrant.sketches.scaling import middles

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FINENESS = 16  # ends of ranges that are tried in an octave
REACH = 4  # standard deviations: as far as some ten thousand numbers of a normal distribution go
LOWEST = 12  # octaves below the largest value


class Activation:
    """A quantized value of a stream. reach: the largest |x| of each channel. power: E[x^2] of each.

    Of a channel without a histogram, the largest |x| is taken as REACH standard deviations.
    """

    def __init__(self, sketch: TensorSketch, config: TensorQuantizationConfig) -> None:
        extremes = sketch.extremes
        self._lo, self._hi = (np.where(np.isfinite(e), e, 0).astype(np.float64) for e in (extremes.lo, extremes.hi))
        self._levels, self._symmetric = config.quant_max - config.quant_min, config.is_symmetric
        self.reach: F64 = np.maximum(np.abs(self._lo), np.abs(self._hi))
        self.power: F64 = self._power(sketch)

    def _power(self, sketch: TensorSketch) -> F64:
        return np.asarray((self.reach / REACH) ** 2)

    def noise(self, factors: F64) -> float:
        """Mean squared error of x / factors on the grid, its whole range covered."""
        lo, hi = min((self._lo / factors).min(), 0), max((self._hi / factors).max(), 0)
        covered = 2 * max(-lo, hi) if self._symmetric else hi - lo
        return float((covered / self._levels) ** 2 / 12)


class ClippedActivation(Activation):
    """One with a histogram of each channel, whose scale may clip."""

    def __init__(self, sketch: TensorSketch, config: TensorQuantizationConfig) -> None:
        histogram = sketch.channel_histogram
        assert histogram is not None
        self._x = np.abs(middles(histogram))
        self._channel, self._counts = histogram.channel, histogram.counts.astype(np.float64)
        super().__init__(sketch, config)

    def _power(self, sketch: TensorSketch) -> F64:
        channels = sketch.extremes.channels
        sizes, squares = (np.bincount(self._channel, self._counts * self._x**n, channels) for n in (0, 2))
        return np.asarray(squares / np.maximum(sizes, 1))

    def noise(self, factors: F64) -> float:
        """Mean squared error of x / factors on the grid, both ends clipped, in proportion, where that costs least."""
        lo, hi = min((self._lo / factors).min(), 0), max((self._hi / factors).max(), 0)
        top = max(-lo, hi)
        if top <= 0:
            return 0.0
        x = self._x / factors[self._channel]
        octaves = np.log2(top) - np.log2(np.maximum(x, top * 2.0**-LOWEST))
        bins = np.maximum(np.floor(octaves * FINENESS), 0).astype(np.int64)
        count, first, second = (np.bincount(bins, self._counts * x**n).cumsum() for n in (0, 1, 2))
        ends = top * 2.0 ** (-np.arange(len(count)) / FINENESS)
        clipped = np.zeros(len(ends))  # of what lies in the bins above each end
        clipped[1:] = second[:-1] - 2 * ends[1:] * first[:-1] + ends[1:] ** 2 * count[:-1]
        steps = (2 if self._symmetric else 1 + min(-lo, hi) / top) * ends / self._levels
        return float((np.maximum(clipped, 0) / max(self._counts.sum(), 1) + steps**2 / 12).min())


@dataclass(frozen=True)
class Weights:
    """The weight of a node as its outputs see it.

    largest, energy: (outputs, inputs of one output), the largest |w| and the sum of w^2 of each; inputs: (the same, or
    one row for all of them), which channel it is. levels: of the weight's grid, 0 where it is in float; per_channel:
    whether each output has a step of its own.
    """

    largest: F64
    energy: F64
    inputs: I64
    levels: int
    per_channel: bool

    @classmethod
    def of(cls, graph: Graph, node: ir.Node) -> Weights:
        config = graph.edges.get((node.name or "", 1))
        weight, inputs = seen_by_outputs(node)
        inputs = inputs[:1] if (inputs == inputs[:1]).all() else inputs
        return cls(
            np.abs(weight).max(axis=2),
            (weight**2).sum(axis=2),
            inputs,
            config.quant_max if config is not None else 0,
            config is not None and config.is_per_channel,
        )

    def energy_of_inputs(self, channels: int) -> F64:
        """The sum of w^2 of each input channel."""
        inputs = np.broadcast_to(self.inputs, self.energy.shape)
        return np.asarray(np.bincount(inputs.reshape(-1), self.energy.reshape(-1), channels), np.float64)

    def largest_of_inputs(self, channels: int) -> F64:
        """The largest |w| of each input channel."""
        found, each = np.zeros(channels), self.largest if len(self.inputs) > 1 else self.largest.max(axis=0)[None]
        np.maximum.at(found, self.inputs, each)
        return found

    def noise(self, factors: F64, power: F64) -> float:
        """Of the rounded weights times factors, at all outputs, for an input of that power per channel / factors."""
        if not self.levels:
            return 0.0
        largest = (self.largest * factors[self.inputs]).max(axis=1)
        steps = (largest if self.per_channel else largest.max()) / self.levels
        return float((steps**2 / 12 * (power / factors**2)[self.inputs].sum(axis=1)).sum())


@dataclass(frozen=True)
class Writer:
    """A weight that makes a stream, with one step for all channels.

    largest: |w| of each channel. power: E[|x|^2] of what makes one number of its output.
    """

    largest: F64
    power: float
    levels: int

    @classmethod
    def of(cls, graph: Graph, node: ir.Node, sketches: Mapping[str, TensorSketch]) -> Writer | None:
        """None where rounding does not depend on how its outputs are scaled, or its input is not known."""
        config = graph.edges.get((node.name or "", 1))
        sketch = sketches.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
        if config is None or config.is_per_channel or sketch is None or not sketch.extremes.finite:
            return None
        weight, _ = seen_by_outputs(node)
        power = float(np.mean(Activation(sketch, config).power)) * weight[0].size
        return cls(np.abs(weight).max(axis=(1, 2)), power, config.quant_max)

    def noise(self, factors: F64) -> float:
        """Of what it makes, divided by factors; the same in each channel."""
        return float((self.largest / factors).max() / self.levels) ** 2 / 12 * self.power


class StreamNoise:
    """The measure for one stream; see the head of this file.

    reach, written, read: of each channel the largest |x|, the largest |w| of the writers and of the readers.
    """

    def __init__(
        self,
        graph: Graph,
        stream: Stream,
        tasks: Sequence[Calibration],
        sketches: Mapping[str, TensorSketch],
    ) -> None:
        self._activations = {
            root: (Activation if task.by_extremes else ClippedActivation)(sketches[root], task.config)
            for task in tasks
            for root in task.roots
        }
        nodes = [graph.node(name) for name in stream.readers]
        self._readers = [Weights.of(graph, node) for node in nodes]
        writers = [graph.node(name) for name in stream.writers if graph.node(name).op_type != "LayerNormalization"]
        found = [Writer.of(graph, node, sketches) for node in writers]
        self._writers = [writer for writer in found if writer is not None]
        self.channels = stream.channels
        self.reach = np.max([a.reach for a in self._activations.values()], axis=0)
        self.written = np.max([np.abs(seen_by_outputs(n)[0]).max((1, 2)) for n in writers] or [self.reach], axis=0)
        self.read = np.max([reader.largest_of_inputs(stream.channels) for reader in self._readers], axis=0)
        self._energies = [reader.energy_of_inputs(stream.channels) for reader in self._readers]
        self._powers = [self._power_read(node) for node in nodes]

    def _power_read(self, node: ir.Node) -> F64:
        """E[x^2] per channel of what that reader reads; where that is not quantized, of the largest in the stream."""
        name = node.inputs[0].name or "" if node.inputs[0] is not None else ""
        if name in self._activations:
            return self._activations[name].power
        return np.asarray(np.max([a.power for a in self._activations.values()], axis=0))

    def __call__(self, factors: F64) -> float:
        """The noise over the signal at the readers, added, if channel c of the stream is divided by factors[c]."""
        rounding = sum(a.noise(factors) for a in self._activations.values())
        rounding += sum(writer.noise(factors) for writer in self._writers)
        total = 0.0
        for reader, energy, power in zip(self._readers, self._energies, self._powers, strict=True):
            signal = float((energy * power).sum())
            if signal > 0:
                passed = float((energy * factors**2).sum())
                total += (rounding * passed + reader.noise(factors, power)) / signal
        return total
