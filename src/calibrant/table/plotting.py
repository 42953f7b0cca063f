"""The picture of one value of a table: its histogram, and below it the range that each method chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calibrant.analysis.bars import Bars
from calibrant.analysis.findings import Grid, find, whole
from calibrant.core import ObservationError, SettingError
from calibrant.sketches import Halves

PARTS = 120
# Okabe and Ito's colours, which colour-blind people tell apart
COLOURS = {"minmax": "#0072b2", "percentile": "#e69f00", "mse": "#009e73", "kl": "#cc79a7", "isotone": "#56b4e9"}
OTHER = "#999999"


def plot_value(sketches: Halves, name: str, methods: Sequence[str], grid: Grid) -> Any:
    """The two matplotlib axes, histogram and ranges, of a figure of their own.

    Raises SettingError without matplotlib, ObservationError for a value without histogram, or nothing finite.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise SettingError("pictures are drawn with matplotlib: pip install 'calibrant[report]'") from None
    bars = Bars.of(whole(sketches[name]), PARTS)
    if bars is None:
        raise ObservationError(f"value '{name}': the table holds no histogram of it, so there is nothing to draw")
    (finding,) = find(sketches, [name], methods, [], grid)
    _, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 4.5), height_ratios=(3, 1), layout="constrained")
    low, high = bars.edges[0], bars.edges[-1]
    edges = bars.edges if high > low else [low - 0.5, low + 0.5]
    top.stairs(bars.counts, edges, fill=True, color="#57606a")
    top.set_yscale("log", nonpositive="clip")
    top.set_ylabel("elements")
    top.set_title(name.replace("$", r"\$"), loc="left")
    for place, (method, choice) in enumerate(reversed(finding.choices.items())):
        colour = COLOURS.get(method, OTHER)
        level = f", {choice.sqnr:.1f} dB" if choice.sqnr is not None else ""
        bottom.barh(place, choice.high - choice.low, left=choice.low, color=colour, height=0.6)
        for end in (choice.low, choice.high):
            top.axvline(end, color=colour, linewidth=1)
        bottom.text(1.01, place, f"{method}{level}", transform=bottom.get_yaxis_transform(), va="center")
    bottom.set_yticks([])
    bottom.set_xlabel(f"{grid}: the range of each method")
    return top, bottom
