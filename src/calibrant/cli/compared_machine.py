"""What `compare` found, for machines: JSON and CSV, with every digit. Keys stay as they are from version to version."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from calibrant.analysis import Difference, LayerError
from calibrant.cli.command_line import improved_name, quantize_command
from calibrant.cli.compared import Compared

MEASURES = ("sqnr_db", "cosine", "mse", "largest")
PARTS = ("own", "accumulated", "alone")


def as_json(compared: Compared) -> str:
    """Everything. What is not finite is null: the SQNR where nothing differs (`mse` is 0), or where NaN appear."""
    advice, found = compared.advice, compared.advice.comparison
    outputs = {
        name: measured(one.difference if one.is_float else None)
        | {"rows": one.rows, "agreeing": one.agreeing, "reshaped": one.reshaped}
        for name, one in found.outputs.items()
    }
    names = str(compared.model), str(compared.other)
    both: dict[str, dict[str, Any]] = {
        name: {"milliseconds": found.milliseconds[i], "bytes": found.size[i]}
        | ({} if found.metric is None else {"metric": finite(found.metric[i])})
        for i, name in enumerate(names)
    }
    head = {"samples": found.samples, "models": both, "outputs": outputs, "notes": found.notes}
    layers = found.layers
    if layers is not None:
        head |= {
            "simulated": measured(layers.simulated),
            "measured_on": layers.measured,
            "measured_sqnr_db": finite(layers.base_db),
            "layers": [row(number, layer) for number, layer in enumerate(layers.layers, 1)],
            "worst": [layer.name for layer in layers.worst],
            "without_counterpart": layers.unmatched,
        }
    output = improved_name(compared.model)
    fixes = [
        {
            "method": fix.method,
            "leave_in_float": list(fix.leave_in_float),
            "reduce_range": fix.reduce_range,
            "sqnr_db": finite(fix.sqnr_db),
            "gain_db": finite(fix.gain_db),
            "command": quantize_command(compared.model, compared.reading, advice.platform, fix, output),
        }
        for fix in advice.fixes
    ]
    head |= {"fixes": fixes, "fixes_base_sqnr_db": finite(advice.base_db), "fixes_refused": advice.refused}
    return json.dumps(head, indent=2, allow_nan=False)


def as_csv(compared: Compared) -> str:
    """A row for each layer, in the order of the first model. What is not finite is empty."""
    layers = compared.advice.comparison.layers
    rows = [row(number, layer) for number, layer in enumerate(layers.layers, 1)] if layers is not None else []
    flat = [
        {key: value for key, value in one.items() if key not in PARTS}
        | {f"{part}_{name}": value for part in PARTS for name, value in one[part].items()}
        for one in rows
    ]
    heads = ["number", "layer", "operators", "value", "restored_sqnr_db"]
    heads += [f"{part}_{name}" for part in PARTS for name in MEASURES]
    out = io.StringIO()
    writer = csv.DictWriter(out, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue().rstrip("\n")


def row(number: int, layer: LayerError) -> dict[str, Any]:
    """One layer; see `LayerError`."""
    names = {"number": number, "layer": layer.name, "operators": layer.kind, "value": layer.value}
    return (
        names
        | {part: measured(getattr(layer, part)) for part in PARTS}
        | {"restored_sqnr_db": None if layer.restored_db is None else finite(layer.restored_db)}
    )


def measured(difference: Difference | None) -> dict[str, float | None]:
    """The measures of a difference; all null where there is none."""
    return {name: None if difference is None else finite(getattr(difference, name)) for name in MEASURES}


def finite(number: float) -> float | None:
    """The number, None where it is not finite."""
    return number if math.isfinite(number) else None
