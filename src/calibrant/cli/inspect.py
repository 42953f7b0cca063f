"""`calibrant inspect`: the options, gathered; the work is in `calibrant.cli.inspection`."""

from __future__ import annotations

import typer

from calibrant.cli import options as o
from calibrant.cli import table_options as t
from calibrant.cli.console import Console
from calibrant.cli.exits import one_line_errors

INSPECT_HELP = """Show what a calibration table holds, and what each method would make of it.

For every value its range, the signal over quantization noise (dB) that each method is estimated to give, and how far
its scale moves between two halves of the samples: more than a tenth, and more samples would change it.

  calibrant inspect model.table --sort move
  calibrant inspect model.table --value conv1 --bits 4
  calibrant inspect model.table --csv > model.csv
"""


def inspect(
    table: t.Table,
    method: t.OneMethod = None,
    value: t.Value = None,
    sort: t.Sort = None,
    reverse: t.Reverse = False,
    json: t.Json = False,
    csv: t.Csv = False,
    bits: t.GridBits = None,
    symmetric: t.GridSymmetric = False,
    percentile: t.GridPercentile = None,
    imports: t.ImportForMethod = None,
    threads: o.Threads = None,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """The command's body; typer makes the options of its signature."""
    if json and csv:
        raise typer.BadParameter("--json contradicts --csv")
    console = Console(verbose, debug=debug)
    with console.logging(), one_line_errors(console):
        from calibrant.analysis.findings import Grid
        from calibrant.cli.inspection import Inspection, Order

        grid = Grid(bits or 8, symmetric, percentile)
        order = Order(sort or "name", reverse)
        Inspection(table, method.casefold() if method else None, value, grid, order, imports or [], threads).show(
            console, "json" if json else "csv" if csv else "text"
        )
