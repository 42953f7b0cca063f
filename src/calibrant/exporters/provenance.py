"""What an exported model says about how it was made, in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from calibrant import __version__
from calibrant.core import ModelError, TargetPlatform
from calibrant.exporters.readiness import activation_configs

if TYPE_CHECKING:
    from calibrant.graph import Graph

PREFIX = "calibrant."


def provenance(graph: Graph, platform: TargetPlatform, metadata: Mapping[str, str]) -> dict[str, str]:
    """Keys `calibrant.version`, `.platform`, `.method`, `.samples`, `.fingerprint`, `.rescaled`, and `metadata`.

    metadata: what the caller knows beside (the setting, ...), with or without the prefix; it wins.
    """
    methods = sorted({config.observer_algorithm.casefold() for _, config in activation_configs(graph)})
    known = {
        "version": __version__,
        "platform": platform.name,
        "method": ", ".join(methods) or "none",
        "samples": str(graph.calibrated_samples),
        "fingerprint": graph.fingerprint,
    }
    if graph.rescaled:
        known["rescaled"] = json.dumps(graph.rescaled)
    given = {key.removeprefix(PREFIX): str(value) for key, value in metadata.items()}
    return {PREFIX + key: value for key, value in (known | given).items()}


def rescaled_in(metadata: Mapping[str, str]) -> dict[str, list[float]]:
    """`Graph.rescaled` of an exported model, from its metadata; empty where they do not say it.

    Raises ModelError where what they say cannot be read.
    """
    try:
        said = json.loads(metadata.get(f"{PREFIX}rescaled", "{}"))
        return {str(name): [float(factor) for factor in factors] for name, factors in said.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"the metadata '{PREFIX}rescaled' of the model cannot be read: {error}") from None


def sign(model: ir.Model, entries: Mapping[str, str]) -> None:
    """Write `entries` into the model's metadata; the float model's own entries stay."""
    model.metadata_props.update(entries)
