"""Which values may be rounded in some model, though they are not in the one with nothing in float."""

from __future__ import annotations

from dataclasses import replace

from calibrant.graph import Graph
from calibrant.table import CalibrationTable


def with_shared_values(empty: CalibrationTable, graph: Graph) -> CalibrationTable:
    """A table over no samples, of the values that share another's scale as well: alone they have one of their own.

    So does the output of a pool whose input stays in float. empty: of the graph, after `quantize_graph`.
    """
    wanted = {name: sketch.spec for name, sketch in empty.sketches.even.items()}
    for group in graph.groups:
        specs = [wanted[root] for root in group.roots if root in wanted]
        for name in group.values if specs else []:
            axis = graph.channel_axis_of(name)
            whole = axis is not None or not specs[0].per_channel
            if name not in wanted and whole:
                wanted[name] = replace(specs[0], channel_axis=axis)
    return CalibrationTable.empty(wanted, empty.fingerprint, empty.engine, empty.settings)
