"""`calibrant report`: the options, gathered; the work is in `calibrant.cli.reporting`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o
from calibrant.cli.choices import Choices
from calibrant.cli.exits import one_line_errors
from calibrant.cli.gathered import console_of

REPORT_HELP = """Write a page, one HTML file, about what quantization does to a model, from a table of statistics.

Every value's histogram with the range that each method chooses, a slider to try others, the worst and what to do.
With the model beside the table also its operations, their weights, and what stays in float. Needs no samples.

  calibrant report model.table -o model.html
  calibrant report model.table model.onnx -o model.html --method kl

[dim]While a model is quantized, with what its samples tell as well:[/dim]

  calibrant quantize model.onnx --data samples -o int8.onnx --report model.html
"""

Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="TABLE [MODEL]",
        help="A table that `calibrant calibrate` wrote, and the model that it is of, an .onnx file.",
        show_default=False,
    ),
]
Page = Annotated[
    Path | None, o.option("--output", "-o", panel=o.OUTPUT, metavar="FILE.html", help="Where the page goes.")
]


def report(
    sources: Sources,
    output: Page = None,
    method: o.Method = None,
    percentile: o.Percentile = None,
    bits: o.Bits = None,
    symmetric: o.Symmetric = None,
    setting: o.Setting = None,
    imports: o.Import = None,
    threads: o.Threads = None,
    force: o.Force = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The command's body; typer makes the options of its signature."""
    console = console_of(verbose, quiet, debug)
    chosen = method.casefold() if method else None
    choices = Choices(setting=setting, method=chosen, percentile=percentile, bits=bits, symmetric=symmetric)
    with console.logging(), one_line_errors(console):
        from calibrant.cli.reporting import Reporting

        Reporting(sources, output, choices, imports or [], threads, force).run(console)
