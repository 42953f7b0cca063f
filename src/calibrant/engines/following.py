"""Which axes of a model's values run along the batch and along the sequence, as runs in several sizes tell.

Names of dimensions would say so where shape inference carries them through, which it does not through the Reshapes of
an attention layer. Sizes always do: an axis that follows the length of a batch is one of positions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from calibrant.core import ObservationError
from calibrant.engines.arranging import arrangements, check_length
from calibrant.engines.axes import Axes
from calibrant.engines.probing import Forward, Kind, Probe, Runs, Unclear
from calibrant.engines.samples import Feed
from calibrant.graph import Graph

SHOWN = 3  # values in a message


def find_axes(graph: Graph, mask: str, names: Collection[str], feed: Feed, forward: Forward) -> dict[str, Axes]:
    """The axes of each value, given a sample whose mask is [batch, sequence].

    The model runs on parts of the sample, of two numbers of rows and two lengths, as far as it takes other sizes than
    the sample's. Where its length is fixed, an axis as long as that is one of positions, if nothing else in the model
    has that size. Raises ObservationError, naming values, where that does not tell, ModelError where the model does not
    run.
    """
    probe = Probe(graph, mask, feed, forward)
    runs = probe.run(names)
    if not runs.length_varies:
        check_length(graph, mask, runs.sizes[0].length, probe)
    found: dict[str, Axes] = {}
    unclear: dict[str, str] = {}
    shared: dict[str, int] = {}
    for name in names:
        try:
            found[name], shares = _axes(runs, name)
        except Unclear as why:
            unclear[name] = str(why)
        else:
            shared |= {name: shares} if shares is not None else {}
    for name, is_outer in arrangements(graph, probe, shared).items():
        if is_outer is None:
            unclear[name] = f"how samples share axis {shared[name]} is not known"
        else:
            found[name] = replace(found[name], is_outer=is_outer)
    if unclear:
        shown = "; ".join(f"'{name}' {list(runs.shapes[0][name])}: {why}" for name, why in [*unclear.items()][:SHOWN])
        more = f"; and {len(unclear) - SHOWN} more" if len(unclear) > SHOWN else ""
        raise ObservationError(
            f"mask '{mask}': it cannot be told which axes run along the sequence ({shown}{more}). Leave the operations "
            "that read these values in float, or calibrate on samples without padding, and name no mask"
        )
    return found


def _axes(runs: Runs, name: str) -> tuple[Axes, int | None]:
    """The axes of a value, and the axis that its samples share with something else, if any. Raises Unclear."""
    kinds = runs.kinds(name)
    batches = [axis for axis, kind in enumerate(kinds) if kind.has_samples]
    sequence = tuple(axis for axis, kind in enumerate(kinds) if kind.has_positions)
    is_batch_known = runs.batch_varies or runs.sizes[0].batch == 1
    if not sequence:
        return Axes(batches[0] if batches else None if is_batch_known else 0), None
    if len(batches) > 1:
        raise Unclear("several axes are as large as the batch")
    if not batches and not is_batch_known:
        raise Unclear("no axis is as large as the batch")
    axes = Axes(batches[0] if batches else None, True, sequence)
    return axes, batches[0] if batches and kinds[batches[0]] is not Kind.SAMPLES else None
