"""Findings for machines: JSON and CSV, with every digit. Keys stay as they are from version to version."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from calibrant.analysis.findings import Choice, Finding, Grid
from calibrant.table import CalibrationTable

SEEN = ("name", "elements", "min", "max", "zeros", "nan", "pos_inf", "neg_inf")
CHOSEN = ("scale", "offset", "low", "high", "squared_error", "sqnr_db", "move")


def as_json(table: CalibrationTable, grid: Grid, findings: Sequence[Finding]) -> str:
    """Table, grid and findings. What is not known is null, and so is the SQNR of an error of 0."""
    values = []
    for finding in findings:
        methods = {method: chosen(choice) for method, choice in finding.choices.items()}
        values.append(seen(finding) | {"methods": methods, "refused": finding.refused})
    head = {"samples": table.samples, "fingerprint": table.fingerprint, "engine": table.engine}
    head |= {"settings": dict(table.settings), "grid": asdict(grid)}
    return json.dumps(head | {"values": values}, indent=2, allow_nan=False)


def as_csv(findings: Sequence[Finding]) -> str:
    """A row for each value and method, with what is not known left empty; a value that no method serves has one row."""
    out = io.StringIO()
    writer = csv.DictWriter(out, (*SEEN, "method", *CHOSEN), lineterminator="\n")
    writer.writeheader()
    for finding in findings:
        for method, choice in finding.choices.items() or [("", None)]:
            writer.writerow(seen(finding) | {"method": method} | (chosen(choice) if choice else {}))
    return out.getvalue().rstrip("\n")


def seen(finding: Finding) -> dict[str, Any]:
    """What was seen of a value. zeros: their share."""
    f = finding
    return dict(zip(SEEN, (f.name, f.elements, f.lo, f.hi, f.zeros, f.nan, f.pos_inf, f.neg_inf), strict=True))


def chosen(choice: Choice) -> dict[str, Any]:
    """What a method chose. low, high: the range; move: between the halves, as a share of the scale."""
    c = choice
    sqnr = c.sqnr if c.sqnr is not None and math.isfinite(c.sqnr) else None
    return dict(zip(CHOSEN, (c.scale, c.offset, c.low, c.high, c.squared_error, sqnr, c.move), strict=True))
