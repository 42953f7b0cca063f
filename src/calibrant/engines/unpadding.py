"""Samples without their padding, for whoever runs the model again and looks at all that it makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from calibrant.core import CalibrantError
from calibrant.engines.executor import Executor
from calibrant.engines.masking import Masking
from calibrant.engines.probing import axes_of_inputs, free_sizes
from calibrant.engines.samples import Feed

WHY = "padded positions count where errors are measured, though not in the statistics: "


def unpadded(samples: Sequence[Feed], executor: Executor, most: int | None = None) -> list[Feed]:
    """The samples of padded batches, each alone and cut to the positions that count; at most so many of them.

    As they are where the graph names no mask, or nothing is padded; and where they cannot be cut, which the graph's
    report says: where the model takes batches and sequences of fixed sizes, or where padding stands elsewhere than at
    the end, so that what is left would be at other positions.
    """
    graph, mask = executor.graph, executor.graph.mask
    if mask is None or all((feed[mask] == 1).all() for feed in samples):
        return list(samples)
    if not all(free_sizes(graph, mask)):
        graph.note(WHY + "the model takes no others than padded samples")
        return list(samples)
    masking = Masking(graph, mask, [], executor.forward)
    found: list[Feed] = []
    for number, feed in enumerate(samples, 1):
        along = axes_of_inputs(graph, mask, feed)
        for kept in masking.kept(feed, number):
            if not isinstance(kept.positions, slice) or kept.positions.start:
                graph.note(WHY + "padding stands elsewhere than at the end")
                return list(samples)
            cuts = {"batch": slice(kept.number, kept.number + 1), "length": kept.positions, None: slice(None)}
            found.append({name: array[tuple(cuts[axis] for axis in along[name])] for name, array in feed.items()})
    try:
        executor.forward(found[0])
    except CalibrantError:  # a size is built into the model, though its inputs leave it free
        graph.note(WHY + "the model does not run without padding")
        return list(samples)
    return found[:most]
