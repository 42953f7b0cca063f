"""The histogram of one value on a terminal, with the ends of the range that each method chose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from calibrant.analysis.bars import Bars
from calibrant.analysis.findings import Choice
from calibrant.cli.numbers import short

LONGEST, SHORTEST = 60, 8  # columns of a bar
EIGHTHS = " ▏▎▍▌▋▊▉"


def lines(bars: Bars, choices: Mapping[str, Choice], width: int, ascii_only: bool = False) -> list[str]:
    """The histogram as text: where a part begins, a bar for the logarithm of its count, the count, whose range ends.

    >>> for line in lines(Bars([0.0, 1.0, 2.0], [99, 9]), {"mse": Choice(0.1, 0, 0.0, 1.9, 0, 0, 0)}, 40): print(line)
    0 ██████████████████  99  from here: mse
    1 █████████            9  to here: mse
    """
    marks = [_marks(bars, choices, part) for part in range(len(bars.counts))]
    labels = [short(edge) for edge in bars.edges[:-1]]
    counts = [f"{count:,}" for count in bars.counts]
    room = width - max(map(len, labels)) - max(map(len, counts)) - max(map(len, marks)) - 5
    room = min(max(room, SHORTEST), LONGEST)
    rows = zip(labels, _bars(bars.counts, room, ascii_only), counts, marks, strict=True)
    wide, wide_counts = max(map(len, labels)), max(map(len, counts))
    return [
        f"{label:>{wide}} {bar:<{room}}  {count:>{wide_counts}}  {mark}".rstrip() for label, bar, count, mark in rows
    ]


def _bars(counts: Sequence[int], room: int, ascii_only: bool) -> list[str]:
    most = math.log1p(max(counts)) or 1.0
    eighths = [max(round(8 * room * math.log1p(count) / most), 1 if count else 0) for count in counts]
    if ascii_only:
        return ["#" * math.ceil(n / 8) for n in eighths]
    return ["█" * (n // 8) + EIGHTHS[n % 8].strip() for n in eighths]


def _marks(bars: Bars, choices: Mapping[str, Choice], part: int) -> str:
    """Whose range begins, and whose ends, in that part."""
    begin = [method for method, choice in choices.items() if bars.part_of(choice.low) == part]
    end = [method for method, choice in choices.items() if bars.part_of(choice.high) == part]
    said = [("from here: ", begin), ("to here: ", end)]
    return "; ".join(word + ", ".join(methods) for word, methods in said if methods)
