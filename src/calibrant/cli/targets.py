"""How a target was reached, and which operations lose most, in words and tables."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence

from calibrant.analysis import Analysis, OperationError
from calibrant.analysis.by_operation import loss
from calibrant.cli.columns import Column, print_columns
from calibrant.cli.console import Console
from calibrant.cli.numbers import decibels, printable, short
from calibrant.cli.words import megabytes
from calibrant.data.paths import count
from calibrant.precision import Reached, Trial

WORST = 10  # operations


def target_rows(reached: Reached) -> Iterator[tuple[str, str]]:
    """Label and text of each line: what was reached and with what, the curve, and how to get it again."""
    runs = f"{count(reached.runs, 'model')} run"
    if reached.left:
        lost = f"{reached.in_float} of {count(reached.operations, 'operation')} in float"
        yield "target", f"{score_in_words(reached)}, with {lost} ({runs})"
    else:
        yield "target", f"{score_in_words(reached)}: met with nothing more in float ({runs})"
    if reached.left or reached.float_latency is not None:
        yield from (("", point_in_words(trial, trial.left == set(reached.left))) for trial in reached.curve)
    if reached.float_latency is not None:
        yield "", f"the float model: {milliseconds(reached.float_latency)}"
    if reached.left:
        yield "again", " ".join(f"--leave-in-float {shlex.quote(printable(name))}" for name in reached.left)


def score_in_words(reached: Reached) -> str:
    """The SQNR, and the metric beside the float model's."""
    text = f"{reached.score.sqnr_db:.1f} dB at the outputs"
    if reached.score.metric is None:
        return text
    return f"{text}, metric {short(reached.score.metric, 5)} (float model {short(reached.float_metric, 5)})"


def point_in_words(trial: Trial, taken: bool) -> str:
    """A point of the curve; taken: whether it is the model that was made.

    >>> from calibrant.precision.scoring import Score
    >>> point_in_words(Trial(frozenset(), 3, Score(20.09, 0.75), 4_704_808, 0.0123), True)
    '  3 in float: 20.1 dB, metric 0.75, 4.7 MB, 12.3 ms (this model)'
    """
    metric = "" if trial.score.metric is None else f"metric {short(trial.score.metric, 5)}, "
    time = "" if trial.latency is None else f", {milliseconds(trial.latency)}"
    cost = f"{megabytes(trial.size)}{time}{' (this model)' if taken else ''}"
    return f"{trial.in_float:>3} in float: {trial.score.sqnr_db:.1f} dB, {metric}{cost}"


def milliseconds(seconds: float) -> str:
    """
    >>> milliseconds(0.012345), milliseconds(2.5)
    ('12.3 ms', '2500 ms')
    """
    number = 1000 * seconds
    return f"{number:.3g} ms" if number < 1000 else f"{number:.0f} ms"


def show_worst(console: Console, analysis: Analysis) -> None:
    """Print the operations that lose most by themselves, on stdout. Nothing if quiet."""
    if console.quiet:
        return
    found = analysis.worst(None if console.live else WORST)
    console.out.print(f"\nWhat hurts most: SQNR in dB on {count(analysis.samples, 'sample')}", style="bold")
    print_columns(console.out, worst_columns(found))


def worst_columns(found: Sequence[OperationError]) -> list[Column]:
    """A row for each operation: the model's outputs and its own when it alone is quantized, and its own as it is."""
    return [
        Column("OPERATION", [printable(one.name) for one in found], name=True),
        Column("TYPE", [one.op_type for one in found], 2),
        Column("MODEL,\nTHIS ALONE", [decibels(_db(loss(one))) for one in found]),
        Column("ITSELF,\nALONE", [decibels(one.alone.sqnr_db) for one in found], 1),
        Column("ITSELF,\nALL BEFORE TOO", [decibels(one.accumulated.sqnr_db) for one in found], 1),
    ]


def _db(relative: float) -> float:
    return -10 * math.log10(relative) if relative > 0 else math.inf
