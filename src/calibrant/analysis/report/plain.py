"""A Report as the plain data that the page's script reads. Names are written once; elsewhere is their number."""

from __future__ import annotations

import base64
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from calibrant.analysis.findings import Choice
from calibrant.analysis.report.model import Report, ReportedOperation, ReportedValue, Suspect
from calibrant.core import TensorQuantizationConfig
from calibrant.observers.mse import grid_of
from calibrant.sketches import Extremes

LONGEST = 300  # characters of a name
SENTENCE = 1200  # of a sentence, which may hold names
STRIPES = 256  # of the strip of channels: more channels share one
DIGITS = 7
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode's categories of what has no shape, or turns others


def plain_report(report: Report) -> dict[str, Any]:
    """Everything of it, as JSON takes it: finite numbers, or null."""
    numbers = {value.name: number for number, value in enumerate(report.values)}
    places = {operation.name: number for number, operation in enumerate(report.operations)}
    return {
        "title": legible(report.title),
        "facts": [[legible(label), legible(text, SENTENCE)] for label, text in report.facts],
        "notes": [legible(note, SENTENCE) for note in report.notes],
        "values": [plain_value(value, numbers, places) for value in report.values],
        "operations": [plain_operation(operation, numbers) for operation in report.operations],
        "suspects": [plain_suspect(suspect, numbers, places) for suspect in report.suspects],
    }


def plain_value(value: ReportedValue, numbers: Mapping[str, int], places: Mapping[str, int]) -> dict[str, Any]:
    """One value. grid: its integers, and how they round; methods: by name, the range that each chose."""
    seen = value.finding
    return {
        "name": legible(value.name),
        "maker": places.get(value.maker),
        "elements": seen.elements,
        "low": number(seen.lo),
        "high": number(seen.hi),
        "zeros": number(seen.zeros),
        "nonfinite": [seen.nan, seen.pos_inf, seen.neg_inf],
        "grid": plain_grid(value.config),
        "perChannel": value.config.is_per_channel,
        "method": legible(value.method),
        "chosen": plain_choice(value.chosen) if value.chosen is not None else None,
        "sqnr": number(value.sqnr),
        "exact": value.sqnr == math.inf,
        "moved": number(value.moved),
        "methods": {method: plain_choice(choice) for method, choice in seen.choices.items()},
        "shared": [numbers[name] for name in value.shared if name in numbers],
        "outline": value.outline.plain() if value.outline is not None else None,
        "channels": plain_channels(value.extremes),
    }


def plain_grid(config: TensorQuantizationConfig) -> dict[str, Any]:
    """The integers of a config, and where they round."""
    grid = grid_of(config)
    return {
        "min": config.quant_min,
        "max": config.quant_max,
        "bits": config.num_of_bits,
        "symmetric": config.is_symmetric,
        "powerOf2": config.is_power_of_2,
        "up": grid.up,
        "down": grid.down,
        "spread": grid.spread,
    }


def plain_choice(choice: Choice) -> dict[str, Any]:
    """What a method chose. exact: there is no error, so that dB would be infinite."""
    return {
        "low": number(choice.low),
        "high": number(choice.high),
        "scale": number(choice.scale),
        "offset": choice.offset,
        "sqnr": number(choice.sqnr),
        "exact": choice.sqnr == math.inf,
    }


def plain_operation(operation: ReportedOperation, numbers: Mapping[str, int]) -> dict[str, Any]:
    """One operation."""
    return {
        "name": legible(operation.name),
        "type": legible(operation.op_type),
        "fused": legible(operation.fused),
        "value": numbers.get(operation.value),
        "reads": [numbers[name] for name in operation.reads if name in numbers],
        "entering": [numbers[name] for name in operation.entering if name in numbers],
        "reason": legible(operation.reason),
        "rounding": number(operation.rounding),
        "weights": number(operation.weights),
        "alone": number(operation.alone),
        "accumulated": number(operation.accumulated),
        "worst": number(operation.worst),
    }


def plain_suspect(suspect: Suspect, numbers: Mapping[str, int], places: Mapping[str, int]) -> dict[str, Any]:
    """One of the worst."""
    return {
        "operation": places.get(suspect.operation),
        "value": numbers.get(suspect.value),
        "decibels": number(suspect.decibels),
        "facts": [legible(fact, SENTENCE) for fact in suspect.facts],
        "steps": [[legible(step.text, SENTENCE), step.option] for step in suspect.steps],
    }


def plain_channels(extremes: Extremes) -> dict[str, Any] | None:
    """The range of each channel, or of so many that STRIPES do; None where channels are not known.

    data: base64 of int16 lows, then highs, as 32767ths of `reach`; a low above its high: nothing finite was seen.
    """
    count = extremes.channels
    finite = np.isfinite(extremes.lo) & np.isfinite(extremes.hi)
    if count < 2 or not finite.any():
        return None
    per = -(-count // STRIPES)
    starts = np.arange(0, count, per)
    lows = np.minimum.reduceat(np.where(finite, extremes.lo, np.inf).astype(np.float64), starts)
    highs = np.maximum.reduceat(np.where(finite, extremes.hi, -np.inf).astype(np.float64), starts)
    reach = float(max(np.abs(extremes.lo[finite]).max(), np.abs(extremes.hi[finite]).max())) or 1.0
    codes = [np.clip(np.rint(ends / reach * 32767), -32767, 32767).astype("<i2") for ends in (lows, highs)]
    data = base64.b64encode(codes[0].tobytes() + codes[1].tobytes()).decode()
    return {"count": count, "per": per, "reach": reach, "data": data}


def number(x: float | None) -> float | None:
    """A finite number with DIGITS digits; None for what is not known or not finite."""
    return None if x is None or not math.isfinite(x) else float(f"{float(x):.{DIGITS}g}")


def legible(text: str, longest: int = LONGEST) -> str:
    """The text with what cannot be seen spelled out, and its middle left out where it is longer than that.

    >>> legible("a\u202eb"), legible("x" * 1000, 5)
    ('a\\\\u202eb', 'xx…xx')
    """
    if len(text) > longest:
        half = (longest - 1) // 2
        text = text[:half] + "…" + text[-half:]
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in INVISIBLE else c for c in text)
