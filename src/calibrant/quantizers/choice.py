"""What the user decides about nodes: which stay in float, which alone are quantized."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from calibrant.core import SettingError, TargetPlatform, closest, unknown
from calibrant.graph import Graph
from calibrant.quantizers.rows import Table
from calibrant.settings import QuantizationSetting

MOST_LISTED = 20  # names in an error
NOT_NAMED = "not among what `only` names"


def matching(what: str, pattern: str, names: Sequence[str], types: Iterable[str] = ()) -> list[str] | str:
    """The names that `pattern` means; or, if it is an operator type, that type.

    A name as it stands comes first, then a type, then a regular expression that fits the whole name.
    Raises SettingError when it is none of these, or fits nothing.
    """
    if pattern in names:
        return [pattern]
    known = set(types)
    if pattern in known:
        return pattern
    try:
        found = [name for name in names if re.fullmatch(pattern, name)]
    except re.error as error:
        raise SettingError(f"{what}: '{pattern}' is no name, and no regular expression either: {error}") from None
    if not found:
        kind = "name or operator type" if known else "value"
        raise SettingError(f"{what}: " + unknown(kind, pattern, _near(pattern, names, known)))
    return found


def kept_in_float(graph: Graph, table: Table, setting: QuantizationSetting) -> dict[str, str]:
    """Names of nodes that the user wants in float -> the words for the report.

    Raises SettingError for a pattern that fits no node, or a wish that this platform cannot fulfil.
    """
    kept: dict[str, str] = {}
    if setting.only:
        wanted: set[str] = set()
        for pattern in setting.only:
            found = nodes_of(graph, "only", pattern)
            if not any(graph.node(name).op_type in table.rows for name in found):
                types = ", ".join(sorted({graph.node(name).op_type for name in found}))
                raise SettingError(f"only: '{pattern}' means {types}, which {table.platform.name} does not quantize")
            wanted.update(found)
        kept = {n.name or "": NOT_NAMED for n in graph.model.graph if n.name not in wanted}
    for pattern in setting.leave_in_float:
        kept.update(dict.fromkeys(nodes_of(graph, "leave_in_float", pattern), "left in float by the user"))
    for pattern, platform in setting.dispatching_table:
        found = nodes_of(graph, "dispatching_table", pattern)
        if platform is TargetPlatform.FP32:
            kept.update(dict.fromkeys(found, "left in float by the dispatching table"))
        elif platform is table.platform:
            for name in found:
                kept.pop(name, None)
        else:
            raise SettingError(
                f"dispatching_table: '{pattern}' is sent to {platform.name}, in a model for {table.platform.name}; "
                f"expected {table.platform.name} or FP32"
            )
    return kept


def nodes_of(graph: Graph, what: str, pattern: str) -> list[str]:
    """The names of the nodes that `pattern` means: see `matching`. Raises SettingError when it means none."""
    nodes = {n.name or "": n.op_type for n in graph.model.graph}
    found = matching(what, pattern, list(nodes), nodes.values())
    return [name for name, op_type in nodes.items() if op_type == found] if isinstance(found, str) else found


def _near(pattern: str, names: Sequence[str], types: set[str]) -> set[str]:
    """What an error lists: all if that is little; else the nearest name, those that hold the pattern, or the types."""
    known = {*names, *types}
    if len(known) <= MOST_LISTED:
        return known
    near = closest(pattern, known)
    if near is not None:
        return {near}
    alike = sorted(name for name in known if pattern.casefold() in name.casefold())
    return set((alike or sorted(types) or sorted(known))[:MOST_LISTED])
