"""What is printed when a model is quantized: what was done, what was not, where it is, and what to try next."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from calibrant.api import QuantizationSummary
from calibrant.cli.command_line import compare_command
from calibrant.cli.console import Console
from calibrant.cli.output import beside
from calibrant.cli.reading import Reading
from calibrant.cli.tables import TableFile
from calibrant.cli.targets import target_rows
from calibrant.cli.words import Parameters, config_in_words, counted, left_in_float, masked_rows, megabytes
from calibrant.core import in_prose
from calibrant.data import Samples
from calibrant.data.images import Images
from calibrant.data.paths import count
from calibrant.graph import Graph
from calibrant.settings import QuantizationSetting


@dataclass(frozen=True)
class Finished:
    """A quantization that is done and written. size: bytes of the float model. seconds: time by stage, in order."""

    model: Path
    size: int
    output: Path
    graph: Graph
    setting: QuantizationSetting
    summary: QuantizationSummary
    samples: Samples | None
    seconds: dict[str, float]
    notes: list[str]
    reading: Reading  # how samples are read, or would be
    source: TableFile | None = None  # instead of samples
    report: Path | None = None  # the page about it


def show_summary(console: Console, done: Finished) -> None:
    """Print it on stdout; warnings and notes included. Nothing if quiet."""
    files = [done.output, *(path for path in beside(done.output, done.summary.platform) if path.exists())]
    files += [done.report] if done.report is not None else []
    title = f"{done.model.name}, quantized for {done.summary.platform.name}"
    ends = [("written to", ", ".join(map(str, files))), ("next", next_step(done))]
    console.summary(title, rows(done, verbose=console.live), ends)


def rows(done: Finished, verbose: bool = False) -> Iterator[tuple[str, str]]:
    """Label and text of each line, in order."""
    summary, graph = done.summary, done.graph
    if done.source is not None:
        read = "none read" if done.samples is None else f"{done.samples.given} read to measure on"
        yield "samples", f"{read}: the table '{done.source.path}' is of {summary.samples}"
    elif done.samples is not None:
        yield "samples", samples_in_words(done.samples, summary.samples)
        yield from (("", note) for note in done.samples.notes)
    if done.samples is not None or done.source is not None:
        yield from masked_rows(graph.mask or (done.source.table.settings.get("mask") if done.source else None))
        kinds = counted(config_in_words(group.config) for group in graph.groups) or "none"
        methods = counted(word for word, n in summary.methods.items() for _ in range(n)) or "nothing to calibrate"
        yield "activations", f"{values_in_words(graph)} calibrated by {methods}: {kinds}"
        yield from moving_rows(summary.moving, verbose)
    else:
        yield "activations", "in float"
    yield "weights", str(Parameters.of(graph)) if done.setting.quantize_parameter else "in float"
    yield from float_rows(graph, verbose)
    if summary.target is not None:
        yield from target_rows(summary.target)
    yield from (("note", note) for note in done.notes + (summary.notes if verbose else alike(summary.notes)))
    total = sum(done.seconds.values())
    stages = ", ".join(f"{in_prose(stage)} {spent:.1f} s" for stage, spent in done.seconds.items() if spent >= 0.05)
    reading = f" (waiting for samples: {done.samples.seconds:.1f} s)" if done.samples is not None else ""
    yield "time", f"{total:.1f} s" + (f": {stages}{reading}" if stages else "")
    after = done.output.stat().st_size + sum(path.stat().st_size for path in beside(done.output) if path.exists())
    smaller = f" ({done.size / after:.1f} times smaller)" if done.size > 1.05 * after else ""
    yield "size", f"{megabytes(done.size)} -> {megabytes(after)}{smaller}"


def moving_rows(moving: Mapping[str, float], verbose: bool) -> Iterator[tuple[str, str]]:
    """Which scales hang on the choice of samples, those that move most first."""
    if not moving:
        return
    worst = sorted(moving, key=lambda name: -moving[name])
    first, *others = worst if verbose else worst[:3]
    text = f"between two halves of them, the scale of '{first}' moves by {100 * moving[first]:.0f} %"
    text += "".join(f", of '{name}' by {100 * moving[name]:.0f} %" for name in others)
    more = f", and {len(moving) - 1 - len(others)} more" if len(moving) > 1 + len(others) else ""
    yield "", f"{count(len(moving), 'value')} would profit from more samples: {text}{more}"


def values_in_words(graph: Graph) -> str:
    """How many values have a scale, and how many scales those are."""
    values, scales = sum(len(group.values) for group in graph.groups), len(graph.groups)
    return count(values, "value") + (f" on {count(scales, 'scale')}" if scales != values else "")


def alike(notes: list[str]) -> list[str]:
    """`notes` with one for all those that differ in names and numbers only.

    >>> alike(["'a' lost 3 rows", "the end", "'b' lost 4 rows"])
    ["'a' lost 3 rows (and 1 more like this: --verbose)", 'the end']
    """
    groups: dict[str, list[str]] = {}
    for note in notes:
        groups.setdefault(re.sub(r"'[^']*'|\d+", "", note), []).append(note)
    return [g[0] + (f" (and {len(g) - 1} more like this: --verbose)" if len(g) > 1 else "") for g in groups.values()]


def float_rows(graph: Graph, verbose: bool) -> Iterator[tuple[str, str]]:
    """What stays in float, a line for each reason."""
    total = sum(1 for _ in graph.model.graph)
    left = left_in_float(graph, most=None if verbose else 3)
    yield "in float", f"{len(graph.left_in_float)} of {count(total, 'operation')}" if left else "nothing"
    yield from (("", f"{nodes}: {reason}") for reason, nodes in left)


def samples_in_words(samples: Samples, used: int) -> str:
    """How many samples were used, of what, and how many could not be."""
    text = f"{used} from '{samples.where}'"
    if samples.available is not None and samples.taken < samples.available:
        text = f"{used} of the {samples.available} in '{samples.where}', evenly spread"
    skipped = f"; skipped, as unfit: {len(samples.skipped)}" if samples.skipped else ""
    return text + skipped


def next_step(done: Finished) -> str:
    """The one thing that most likely helps."""
    if done.samples is None and done.source is None:
        return f"see what it lost: {compare_command(done.model, done.output, Reading('SAMPLES'))}"
    source = done.samples.source if done.samples is not None else None
    if isinstance(source, Images) and source.plan.is_plain:
        return "if the model was trained on normalized images, say so with --mean and --std: it got pixels from 0 to 1"
    if done.summary.samples < 32:
        return "give more samples: a few hundred that look like what the model will meet"
    others = replace(done.reading, data="OTHER_SAMPLES", samples=None)
    return f"see on other samples what it lost, and what helps: {compare_command(done.model, done.output, others)}"
