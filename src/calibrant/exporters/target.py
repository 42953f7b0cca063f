"""The way from a quantized graph to a Q/DQ file, the same for every runtime that reads one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.core import ExportError
from calibrant.core.files import whole_files
from calibrant.exporters.dialect import Dialect
from calibrant.exporters.files import external_name, save_model
from calibrant.exporters.provenance import provenance, sign
from calibrant.exporters.qdq import insert_qdq
from calibrant.exporters.readiness import check_float32, check_kind, check_ready, check_rounding

if TYPE_CHECKING:
    from calibrant.graph import Graph


def check_qdq(graph: Graph, dialect: Dialect) -> None:
    """Raise ExportError for what Q/DQ cannot express, whatever the scales will be."""
    name = dialect.platform.name
    check_kind(graph, name)
    check_rounding(graph, name)
    check_float32(graph, name)


def export_qdq(
    graph: Graph,
    dialect: Dialect,
    path: str | Path,
    config_path: str | Path | None,
    metadata: Mapping[str, str] | None,
) -> None:
    """Check that the graph can be exported, insert Q/DQ into a copy, sign it, and write it whole or not at all."""
    name = dialect.platform.name
    if config_path is not None:
        raise ExportError(f"{name} has no configuration file: everything is in the model; leave config_save_to out")
    check_qdq(graph, dialect)
    check_ready(graph)
    model = insert_qdq(graph, dialect)
    sign(model, provenance(graph, dialect.platform, metadata or {}))
    target = Path(path)
    with whole_files(target, external_name(target)) as (place, _):
        save_model(model, place)
