"""What the sizes of a value leave open: how samples share an axis, and whether a fixed length is told by its size."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod

import onnx_ir as ir

from calibrant.core import ObservationError
from calibrant.engines.probing import Extents, Probe, Runs, Unclear
from calibrant.graph import Graph

RESHAPES = ("Reshape", "Flatten")
WITH_WEIGHTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def arrangements(graph: Graph, probe: Probe, shared: Mapping[str, int]) -> dict[str, bool | None]:
    """Of values whose samples share an axis with something else, by name: whether they are its slowest part.

    [batch * heads, ...] and [heads * batch, ...] are of one size: it is asked of the Reshape that made the axis.
    None where none is found, or it arranged it otherwise.
    """
    if not shared:
        return {}
    behind = {name: list(_upstream(graph.value(name))) for name in shared}
    runs = probe.run([value.name or "" for values in behind.values() for value in values])
    return {name: _is_outer(runs, behind[name], axis) for name, axis in shared.items()}


def check_length(graph: Graph, mask: str, length: int, probe: Probe) -> None:
    """Raise ObservationError where sequences of fixed length are not told by their size.

    That is where something else is as long, a number of features in a weight or one that a Reshape makes; and where a
    Reshape merges positions with something else of a sample.
    """
    like = [node for node in graph.model.graph if length in _features(node)]
    merged: list[ir.Node] = []
    ends = {
        node: (source.name or "", node.outputs[0].name or "")
        for node in graph.model.graph
        if node.op_type in RESHAPES and (source := node.inputs[0]) is not None and _is_float(source)
    }
    if ends:
        runs = probe.run([name for names in ends.values() for name in names])
        long = [runs.lengths, runs.totals] if runs.batch_varies else [runs.lengths]
        like += [node for node, names in ends.items() if _more(runs, *names, long)]
        merged += [node for node, names in ends.items() if _more(runs, *names[::-1], [runs.lengths, runs.totals])]
    for nodes, what in ((like, "and so is something else of"), (merged, "and they are no axis of their own behind")):
        if nodes:
            raise ObservationError(
                f"mask '{mask}': its sequences are always {length} long, {what} operation '{nodes[0].name}' "
                f"({nodes[0].op_type}), so that positions cannot be told. Export the model with a free length of "
                "sequence, or calibrate on samples without padding, and name no mask"
            )


def _more(runs: Runs, source: str, made: str, long: Collection[Extents]) -> bool:
    """Whether the second value has more axes than the first that are `long`."""
    before, after = (
        sum(extents in long for extents in zip(*(shapes[name] for shapes in runs.shapes), strict=False))
        for name in (source, made)
    )
    return after > before


def _features(node: ir.Node) -> Iterator[int]:
    """The numbers of features that the node's weights have."""
    weights = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    for weight in weights:
        shape = [int(size) for size in weight.shape.numpy()]
        if node.op_type in WITH_WEIGHTS and len(shape) > 1:
            yield from shape
        elif node.op_type == "Gather":  # of a table: rows, and the features of each
            yield from shape[1:]


def _upstream(value: ir.Value) -> Iterator[ir.Value]:
    """The floating values that went into this one, itself first, nearest first; constants left out."""
    seen = {value}
    waiting = [value]
    while waiting:
        found = waiting.pop(0)
        yield found
        node = found.producer()
        for source in node.inputs if node is not None else ():
            if source is not None and source not in seen and _is_float(source):
                seen.add(source)
                waiting.append(source)


def _is_outer(runs: Runs, values: Sequence[ir.Value], axis: int) -> bool | None:
    """See `arrangements`. values: the one in question, and those upstream of it."""
    extents = {}
    for value in values:
        try:
            extents[value] = runs.extents(value.name or "")
        except Unclear:
            continue
    if values[0] not in extents:
        return None
    shared = extents[values[0]][axis]
    for value in values:
        node = value.producer()
        if shared not in extents.get(value, ()) or node is None or node.op_type not in RESHAPES:
            continue
        source = node.inputs[0]
        if source in extents and shared not in extents[source]:
            return _comes_first(extents[source], extents[value], shared, runs.batches)
    return None


def _comes_first(source: Sequence[Extents], made: Sequence[Extents], shared: Extents, batch: Extents) -> bool | None:
    """Whether a Reshape from `source` to `made` takes an axis of the batch as the slowest part of the shared one."""
    place = made.index(shared)
    for axis, extents in enumerate(source):
        if extents != batch:
            continue
        if _product(source[:axis], batch) == _product(made[:place], batch):
            return True
        if _product(source[axis + 1 :], batch) == _product(made[place + 1 :], batch):
            return False
    return None


def _product(axes: Sequence[Extents], like: Extents) -> Extents:
    """How many elements the axes have together, in each run."""
    return tuple(prod(axis[run] for axis in axes) for run in range(len(like)))


def _is_float(value: ir.Value | None) -> bool:
    """Whether it is no constant, and of floats."""
    return (
        value is not None and value.const_value is None and value.dtype is not None and value.dtype.is_floating_point()
    )
