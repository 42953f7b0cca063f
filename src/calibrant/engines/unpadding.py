"""Samples without their padding, for whoever looks at all that a model makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from calibrant.core import CalibrantError, DataError
from calibrant.engines.executor import Executor
from calibrant.engines.masking import kept_of
from calibrant.engines.probing import axes_of_inputs, free_sizes
from calibrant.engines.samples import Feed
from calibrant.graph import Graph


class NotCut(DataError):
    """Padding cannot be cut off."""


def unpadded(samples: Iterable[Feed], executor: Executor) -> Iterator[Feed]:
    """The samples of padded batches, each alone and cut to the positions that count.

    As they are where the graph names no mask, or nothing of a batch is padded; and where they cannot be cut, which the
    graph's report says.
    """
    graph, mask = executor.graph, executor.graph.mask
    runs = False
    for number, feed in enumerate(samples, 1):
        if mask is None or (feed[mask] == 1).all():
            yield feed
            continue
        try:
            found = each_alone(feed, graph, mask, number)
            if not runs:
                _check_run(found[0], executor)
            runs = True
        except NotCut as error:
            found = [feed]
            note = f"padded positions count where errors are measured, though not in the statistics: {error}"
            if note not in graph.report:
                graph.note(note)
        yield from found


def each_alone(feed: Feed, graph: Graph, mask: str, number: int = 1) -> list[Feed]:
    """The samples of one padded batch, each alone and cut to the positions that count. number: of the batch.

    Raises DataError for a mask that is none. NotCut where the model takes batches and sequences of fixed sizes, and
    where padding stands elsewhere than at the end, so that what is left would be at other positions.
    """
    if not all(free_sizes(graph, mask)):
        raise NotCut("the model takes no others than padded samples")
    along = axes_of_inputs(graph, mask, feed)
    found = []
    for kept in kept_of(mask, feed, number):
        if not isinstance(kept.positions, slice) or kept.positions.start:
            raise NotCut("padding stands elsewhere than at the end")
        cuts = {"batch": slice(kept.number, kept.number + 1), "length": kept.positions, None: slice(None)}
        found.append({name: array[tuple(cuts[axis] for axis in along[name])] for name, array in feed.items()})
    return found


def _check_run(feed: Feed, executor: Executor) -> None:
    """Raise NotCut where the model does not run on it: a size may be built in, though its inputs leave it free."""
    try:
        executor.forward(feed)
    except CalibrantError as error:
        raise NotCut("the model does not run without padding") from error
