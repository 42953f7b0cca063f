"""Equalization: channels of a stream are brought to like ranges, before scales are found.

Per-tensor scales serve the widest channel; what is narrow has few steps left. Dividing each channel of a stream by a
factor of its own, and multiplying the weights that read it, changes nothing of what the model computes:

    cross-layer equalization   s = sqrt(r1 r2) / r2 of the ranges of the weights (Nagel et al., 2019, arXiv 1906.04721)
    SmoothQuant                s = max|x|^a / max|w|^(1-a), a searched (Xiao et al., 2023, arXiv 2211.10438)

Which factors are best is told by `StreamNoise`, from the statistics and the weights. Sketches per channel tell what the
sketches of the divided values are, so the model does not run again; and a table serves as well as samples.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibrant.core import QuantizationStates
from calibrant.graph import Graph
from calibrant.graph.rescaling import rescale
from calibrant.graph.streams import Stream, smoothed_name
from calibrant.passes.activations import activation_configs
from calibrant.passes.calibration import Calibration
from calibrant.passes.stream_noise import StreamNoise
from calibrant.sketches import Halves, Margins, TensorSketch
from calibrant.sketches.scaling import divided_halves

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

# Powers of max|x|, of the writers' max|w| and of the readers' max|w|, of which factors are made.
STRENGTHS = (
    *((a, 0.0, 0.0) for a in (0.25, 0.5, 0.75, 1.0)),
    *((a, 0.0, a - 1) for a in (0.25, 0.5, 0.75)),
    *((a, 0.0, -a) for a in (0.25, 0.5)),
    (0.0, 0.5, -0.5),
)
WORTH = 0.95  # of the noise before: a stream that keeps more is left alone
WORTH_BELOW_CEILING = 0.65  # likewise, where a ceiling may cut off what no sample had, which the measure ignores
HEADROOM = 1.25  # times the largest value to be expected of a channel: what a ceiling is to let through
LEAST = 0.25  # factor below a ceiling: a sixteenth of the noise of a channel, and room for what no sample had
WORTH_A_MUL = 0.5  # the same, where it takes a Mul over all that a Conv reads, often an image
BITS = 8  # of weights, for a stream with ceilings: of fewer, their plain rounding would rule the measure
CROWD = 16  # channels to a number seen of each: with more, some of any other sample lie beyond what the extremes tell
ABOUT = 1.2  # times the least noise: closer than that the measure does not tell


@dataclass(frozen=True)
class Equalized:
    """tasks: what is to be solved, and sketches: from what, now. factors: by which the streams were divided.

    notes: what the graph's report is told.
    """

    tasks: list[Calibration]
    sketches: Halves
    factors: Mapping[Stream, F64]
    notes: list[str]

    def commit(self, graph: Graph) -> None:
        """What it means for the graph: weights whose scale was found wait for it again. A graph is equalized once."""
        _unsettle(graph, self.factors)
        graph.streams = []
        for note in self.notes:
            graph.note(note)


def equalize(graph: Graph, tasks: Sequence[Calibration], sketches: Halves) -> Equalized:
    """Rescale the streams of `graph` that profit; the tasks, and the sketches of their roots as they are then.

    What a Mul makes of a value takes its place in the tasks, and has a sketch beside it. Unless the user asked for a
    method, it is solved by the one that its config names for this case, in `detail["smoothed_method"]`.
    `graph.undo_rescaling` takes all of it back, until `Equalized.commit`.
    """
    tasks = list(tasks)
    done: dict[Stream, F64] = {}
    lacking: list[Stream] = []
    for stream in graph.streams:
        concerned = _concerned(graph, stream, tasks, sketches)
        if concerned is None:
            lacking.append(stream)
        if not concerned:
            continue
        noise = StreamNoise(graph, stream, concerned, sketches)
        factors = best(noise, _worth(graph, stream), least_factors(stream, sketches))
        if factors is None:
            continue
        rescale(graph, {stream: factors})
        names = {root: smoothed_name(root) if stream.inserted else root for task in concerned for root in task.roots}
        shared = {} if stream.inserted else {name: name for name in stream.values if name in sketches}
        sketches = divided_halves(sketches, factors, names | shared)
        moved = {id(task.config): _reading(task, names) for task in concerned}
        tasks = [moved.get(id(task.config), task) for task in tasks]
        done[stream] = factors
    notes = [f"equalized: the channels of {_counted([*done])}"] if done else []
    if lacking:
        what = _counted(lacking)
        notes.append(f"not equalized, for want of statistics per channel: {what}; collect them with the same settings")
    return Equalized(tasks, sketches, done, notes)


def equalize_again(graph: Graph, factors: Mapping[Stream, F64]) -> None:
    """What `equalize` did to a graph, done to it again after `quantize_graph`; each config has the method for that."""
    rescale(graph, factors)
    divided = {smoothed_name(stream.values[0]) for stream in factors if stream.inserted}
    for config, roots in activation_configs(graph):
        if divided & set(roots):
            config.observer_algorithm = config.detail.get("smoothed_method", config.observer_algorithm)
    graph.streams = []
    if factors:
        graph.note(f"equalized: the channels of {_counted([*factors])}")


def _reading(task: Calibration, names: Mapping[str, str]) -> Calibration:
    """The task with its roots under other names."""
    return type(task).of(task.config, [names[root] for root in task.roots], task.draft.observer_algorithm)


def best(noise: StreamNoise, worth: float = WORTH, bounds: F64 | None = None) -> F64 | None:
    """The factors that differ least of those that are ABOUT as good as the best; None where those save too little.

    worth: the share of the noise that may be left. bounds: see `least_factors`.
    """
    tried = [(noise(factors), factors) for factors in candidates(noise, bounds)]
    nothing, least = noise(np.ones(noise.channels)), min(found for found, _ in tried)
    log.debug("noise %.3g, equalized %.3g", nothing, least)
    if not least < worth * nothing:
        return None
    good = [factors for found, factors in tried if found <= ABOUT * least]
    return min(good, key=lambda factors: float(np.log2(factors).std()))


def _worth(graph: Graph, stream: Stream) -> float:
    """What share of the noise may be left where the stream is divided."""
    if stream.ceilings:
        return WORTH_BELOW_CEILING
    convolved = any(graph.node(name).op_type == "Conv" for name in stream.readers)
    return WORTH_A_MUL if stream.inserted and convolved else WORTH


def least_factors(stream: Stream, sketches: Halves) -> F64 | None:
    """What each channel may be divided by at least, so that ceilings let through what they did: (channels,), at most 1.

    None for a stream without ceilings. What other samples will bring is not known, so there is room for more than was
    seen: where the largest values of the two halves of the samples are n octaves apart, for 2 n octaves above the
    larger, and HEADROOM beside. A channel in which a half saw nothing above 0 is not divided.
    """
    if not stream.ceilings:
        return None
    least = np.full(stream.channels, LEAST)
    for name, top in stream.ceilings:
        one, other = (half[name].extremes.hi.astype(np.float64) for half in (sketches.even, sketches.odd))
        if one.size != other.size:  # a half without samples
            return np.ones(stream.channels)
        lower, upper = np.minimum(one, other), np.maximum(one, other)
        reach = np.divide(upper**3, lower**2, out=np.full(stream.channels, np.inf), where=lower > 0)
        least = np.maximum(least, HEADROOM * reach / top)
    return np.asarray(np.minimum(least, 1.0))


def candidates(noise: StreamNoise, least: F64 | None = None) -> Iterator[F64]:
    """What is tried: factors of each of STRENGTHS, their geometric mean 1; with bounds, from `least` to 1."""
    reach, written, read = (np.log2(_lively(r)) for r in (noise.reach, noise.written, noise.read))
    for of_values, of_writers, of_readers in STRENGTHS:
        exponents = of_values * reach + of_writers * written + of_readers * read
        if least is None:
            yield np.exp2(exponents - exponents.mean())
        else:
            yield np.clip(np.exp2(exponents - exponents.max()), least, 1.0)


def _lively(ranges: F64) -> F64:
    """The ranges; of a channel that is next to nothing a thousandth of the largest."""
    largest = float(ranges.max())
    return np.maximum(ranges, largest / 1000) if largest > 0 else np.ones_like(ranges)


def _concerned(
    graph: Graph, stream: Stream, tasks: Sequence[Calibration], sketches: Mapping[str, TensorSketch]
) -> list[Calibration] | None:
    """The tasks for values of the stream, as they are to be solved once it is divided; none if it has to stay, and None
    if that is because too little is known of its channels.

    Each must be per tensor, of values of the stream alone, and by a method that can do with what is known.
    """
    inside = set(stream.values)
    if any(name not in sketches for name, _ in stream.ceilings):  # how far it is from its ceiling is not known
        return []
    if stream.ceilings and min(_bits_of_weights(graph, stream), default=BITS) < BITS:
        return []
    open_tasks = {id(task.config): task for task in tasks}
    found: list[Calibration] = []
    for config, roots in activation_configs(graph):
        if not inside & set(roots):
            continue
        task = open_tasks.get(id(config))
        if task is None or config.is_per_channel or not inside >= set(roots) or task.needs_raw_values:
            return []
        if stream.inserted and not _alone(graph, stream):
            return []
        if Margins in task.observer.sketches:  # they follow the order of the channels
            return []
        if any(sketches[root].extremes.channels not in (0, stream.channels) for root in roots):
            return None
        if stream.inserted and "smoothed_method" in config.detail:
            task = Calibration.of(config, roots, config.detail["smoothed_method"])
        if not task.by_extremes and any(sketches[root].channel_histogram is None for root in roots):
            return None
        if task.by_extremes and any(_is_a_crowd(stream, sketches[root]) for root in roots):
            return []
        found.append(task)
    return found


def _is_a_crowd(stream: Stream, sketch: TensorSketch) -> bool:
    """Whether there are so many channels, each seen so seldom, that their ranges are chance."""
    return 0 < sketch.extremes.finite < stream.channels**2 / CROWD


def _bits_of_weights(graph: Graph, stream: Stream) -> list[int]:
    """Of those that a division of the stream changes, and that are quantized."""
    edges = [(name, 1) for name in (*stream.writers, *stream.readers)]
    return [graph.edges[edge].num_of_bits for edge in edges if edge in graph.edges]


def _counted(streams: Sequence[Stream]) -> str:
    """`the stream of 'a'`, `3 streams of values`."""
    return f"the stream of '{streams[0].values[0]}'" if len(streams) == 1 else f"{len(streams)} streams of values"


def _alone(graph: Graph, stream: Stream) -> bool:
    """Whether nobody but the readers of an inserted stream takes the value as integers, and a float node makes it."""
    value = graph.value(stream.values[0])
    producer = value.producer()
    others = [use for use in value.uses() if use.node.name not in stream.readers]
    in_float = all(graph.config_read(use.node, use.idx) is None for use in others)
    return producer is not None and producer.name in graph.left_in_float and in_float


def _unsettle(graph: Graph, done: Iterable[Stream]) -> None:
    """The weights that were rescaled wait for their scales, if they had them."""
    for stream in done:
        for edge in ((name, 1) for name in (*stream.writers, *stream.readers)):
            config = graph.edges.get(edge)
            if config is not None and config.state is not QuantizationStates.INITIAL:
                config.scale = config.offset = None
                config.state = QuantizationStates.INITIAL
