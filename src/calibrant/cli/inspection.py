"""What `calibrant inspect` does: find, sort, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from calibrant.analysis.bars import Bars
from calibrant.analysis.findings import Finding, Grid, find, whole
from calibrant.cli.columns import Column, print_columns
from calibrant.cli.console import Console
from calibrant.cli.histogram import lines
from calibrant.cli.machine import as_csv, as_json
from calibrant.cli.numbers import decibels, large, percent, printable, short
from calibrant.cli.tables import TableFile
from calibrant.cli.words import masked_rows
from calibrant.core import ObservationError, SettingError, unknown
from calibrant.data.functions import load_module
from calibrant.data.paths import count
from calibrant.engines.session import usable_processors
from calibrant.observers.registry import known
from calibrant.passes.calibration import MOVES
from calibrant.table import CalibrationTable
from calibrant.table.collecting import METHODS

SHORT = {"percentile": "pctile"}  # headings
LABEL = 10


@dataclass(frozen=True)
class Order:
    """By what the values are sorted: `name`, or what needs a look first (see `table_options.SORT_KEYS`)."""

    key: str = "name"
    reverse: bool = False

    def sorted(self, findings: Sequence[Finding], method: str) -> list[Finding]:
        """The findings in that order; those of which it is not known come last. method: whose scale, sqnr and move."""
        if self.key == "name":
            return sorted(findings, key=lambda f: f.name, reverse=self.reverse)
        numbers = {f.name: self._number(f, method) for f in findings}
        have = [f for f in findings if numbers[f.name] is not None]
        ascending = (self.key == "sqnr") != self.reverse
        have.sort(key=lambda f: (1 if ascending else -1) * (numbers[f.name] or 0.0))
        return have + [f for f in findings if numbers[f.name] is None]

    def _number(self, f: Finding, method: str) -> float | None:
        if self.key in ("scale", "sqnr", "move"):
            number: float | None = getattr(f.choices.get(method), self.key, None)
            return number
        if self.key == "range":
            return None if f.lo is None or f.hi is None else f.hi - f.lo
        return float(getattr(f, self.key))


@dataclass(frozen=True)
class Inspection:
    """A table, and what is wanted of it. method: None for all; value: None for all."""

    path: Path
    method: str | None
    value: str | None
    grid: Grid
    order: Order = field(default_factory=Order)
    imports: Sequence[str] = ()
    threads: int | None = None

    def show(self, console: Console, form: str) -> None:
        """Print it on stdout. form: text, json or csv."""
        for module in self.imports:
            load_module(module)
        if self.method is not None and self.method not in known():
            raise SettingError(unknown("method", self.method, known()))
        source = TableFile.open(self.path)
        names = self._names(source.table)
        lead = self.method or lead_of(source.table)
        methods = [self.method] if self.method else list(METHODS)
        in_full = form != "text" or self.value is not None
        with source.named():
            found = find(
                source.table.sketches,
                names,
                methods,
                methods if in_full else [lead],
                self.grid,
                self.threads or usable_processors(),
            )
            refuse_unserved(found, self.method)
        found = self.order.sorted(found, lead)
        if form == "json":
            write_out(as_json(source.table, self.grid, found))
        elif form == "csv":
            write_out(as_csv(found))
        elif self.value is not None:
            show_value(console, source.table, found[0], self.grid)
        else:
            show_values(console, source, found, self.grid, methods, lead)

    def _names(self, table: CalibrationTable) -> list[str]:
        if self.value is None:
            return sorted(table)
        if self.value not in table.sketches:
            raise SettingError(f"{self.path}: {unknown('value', self.value, table)}")
        return [self.value]


def lead_of(table: CalibrationTable) -> str:
    """The method whose movements are shown where none was asked for."""
    return "mse" if any(whole(sketch).histogram is not None for sketch in table.sketches.even.values()) else "minmax"


def refuse_unserved(found: Sequence[Finding], method: str | None) -> None:
    """Raise ObservationError where the one method that was asked for serves no value."""
    if method is not None and found and not any(f.choices for f in found):
        raise ObservationError(found[0].refused[method])


def show_values(
    console: Console, source: TableFile, found: Sequence[Finding], grid: Grid, methods: Sequence[str], lead: str
) -> None:
    """A row for each value, then which of them would profit from more samples."""
    table = source.table
    of = f"{count(len(table), 'value')}, {count(table.samples, 'sample')}"
    head = f"{source.path}: {of}, for {table.settings.get('platform', 'no platform')}, by {table.engine}"
    console.out.print(Text(printable(head), style="bold"), soft_wrap=True)
    for _, text in masked_rows(table.settings.get("mask")):
        console.out.print(Text(printable(text)), soft_wrap=True)
    used = [method for method in methods if any(method in f.choices for f in found)]
    console.out.print(f"Scales for {grid}. dB: estimated signal over quantization noise.", soft_wrap=True)
    if not found:
        return
    console.out.print()
    columns = seen_columns(found) + chosen_columns(found, used, single=len(methods) == 1)
    moves = [f.choices[lead].move if lead in f.choices else None for f in found]
    far = [move is not None and move > MOVES for move in moves]
    columns.append(Column("MOVES", [percent(move) + (" !" if m else "  ") for move, m in zip(moves, far, strict=True)]))
    print_columns(console.out, columns, ["yellow" if m else "" for m in far])
    console.out.print()
    if any(far):
        text = f"{count(sum(far), 'value')} would profit from more samples (!): between two halves of them the scale "
        console.out.print(Text(f"{text}by {lead} moves by more than {100 * MOVES:g} %.", style="yellow"))
    elif any(move is not None for move in moves):
        console.out.print(f"No scale by {lead} moves by more than {100 * MOVES:g} % between two halves of the samples.")
    nonfinite = sum(f.nonfinite > 0 for f in found)
    if nonfinite:
        console.out.print(Text(f"{count(nonfinite, 'value')} with NaN or Inf: scales are for the finite elements."))


def seen_columns(found: Sequence[Finding]) -> list[Column]:
    """What was seen of the values."""
    ranges = [f"{short(f.lo)}..{short(f.hi)}" if f.lo is not None else "-" for f in found]
    columns = [
        Column("VALUE", [printable(f.name) for f in found], name=True),
        Column("ELEMENTS", [large(f.elements) for f in found], rank=3),
        Column("RANGE", ranges, rank=2),
        Column("ZEROS", [percent(f.zeros) for f in found], rank=4),
    ]
    if any(f.nonfinite for f in found):
        columns.append(Column("NAN/INF", [large(f.nonfinite) for f in found], rank=1))
    return columns


def chosen_columns(found: Sequence[Finding], methods: Sequence[str], single: bool) -> list[Column]:
    """What the methods chose; of a single one everything."""
    columns = []
    for method in methods:
        choices = [f.choices.get(method) for f in found]
        name = SHORT.get(method, method).upper()
        sqnr = [decibels(choice.sqnr if choice else None) for choice in choices]
        scale = [short(choice.scale if choice else None, 4) for choice in choices]
        if single:
            columns.append(Column("SCALE", scale))
            columns.append(Column("OFFSET", [str(c.offset) if c else "-" for c in choices], rank=6))
            covers = [f"{short(c.low)}..{short(c.high)}" if c else "-" for c in choices]
            columns.append(Column("COVERS", covers, rank=1))
            columns.append(Column("dB", sqnr))
        else:
            few = method == "isotone"  # of most values it has nothing to say
            columns.append(Column(f"{name}\ndB", sqnr, rank=7 if few else 0))
            columns.append(Column(f"{name}\nSCALE", scale, rank=7 if few else 6))
    return columns if single else columns[::2] + columns[1::2]


def show_value(console: Console, table: CalibrationTable, finding: Finding, grid: Grid) -> None:
    """One value: what was seen, what each method makes of it, its histogram."""
    console.out.print(Text(printable(finding.name), style="bold"), soft_wrap=True)
    rows = [
        ("elements", f"{finding.elements:,} in {count(table.samples, 'sample')}"),
        ("range", f"{short(finding.lo, 7)} to {short(finding.hi, 7)}" if finding.lo is not None else "nothing finite"),
        ("zeros", percent(finding.zeros)),
        ("nan, inf", f"{finding.nan:,} NaN, {finding.pos_inf:,} +Inf, {finding.neg_inf:,} -Inf"),
        ("scales", f"for {grid}"),
    ]
    for label, text in rows:
        console.labelled(label, text, width=LABEL)
    if finding.choices:
        console.out.print()
        chosen = list(finding.choices.items())
        columns = [
            Column("METHOD", [method for method, _ in chosen], name=True),
            Column("SCALE", [short(c.scale, 6) for _, c in chosen]),
            Column("OFFSET", [str(c.offset) for _, c in chosen]),
            Column("COVERS", [f"{short(c.low, 4)}..{short(c.high, 4)}" for _, c in chosen]),
            Column("dB", [decibels(c.sqnr) for _, c in chosen]),
            Column("MOVES", [percent(c.move) for _, c in chosen]),
        ]
        print_columns(console.out, columns)
    for method, why in finding.refused.items():
        if method != "isotone":  # most values carry no order
            console.out.print(Text(f"{method}: {printable(why)}", style="dim"), soft_wrap=True)
    bars = Bars.of(whole(table.sketches[finding.name]))
    if bars is None:
        return
    console.out.print()
    ascii_only = not (console.out.encoding or "").lower().startswith("utf")
    for line in lines(bars, finding.choices, console.out.width, ascii_only):
        console.out.print(Text(line), soft_wrap=True)
    console.out.print(Text("Elements from each number on; bars are in proportion to the count's logarithm.", "dim"))


def write_out(text: str) -> None:
    """The text on stdout. Where nobody reads on (`| head`), no fuss."""
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it closes stdout
