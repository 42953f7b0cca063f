"""The options of the commands about tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from calibrant.cli import parse
from calibrant.cli.options import ACTIVATIONS, DATA, IMPORT_HELP, OUTPUT, RUNNING, flag, option, whole

SHOWN, GRID, CLUSTER = "What is shown", "What it is solved for", "Cluster"
SORT_KEYS = ("name", "elements", "range", "zeros", "nonfinite", "scale", "sqnr", "move")

Table = Annotated[
    Path, typer.Argument(metavar="TABLE", help="A table that `calibrant calibrate` wrote.", show_default=False)
]
Tables = Annotated[
    list[Path], typer.Argument(metavar="TABLE...", help="Tables of one model, settings and engine.", show_default=False)
]
FromTable = Annotated[
    Path | None,
    option(
        "--table",
        "-t",
        panel=DATA,
        metavar="TABLE",
        help="Statistics that `calibrant calibrate` has collected, instead of samples.",
    ),
]
TableOutput = Annotated[
    Path | None, option("--output", "-o", panel=OUTPUT, metavar="TABLE", help="Where the table goes.")
]

Methods = Annotated[
    Any,
    option(
        "--methods",
        panel=ACTIVATIONS,
        parser=parse.names,
        metavar="NAME,NAME",
        help="What the table is to serve; by default all: minmax,percentile,mse,kl,isotone. Fewer make it smaller.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    option(
        "--checkpoint",
        panel=RUNNING,
        metavar="FILE",
        help="Keep what is collected so far in this file. After an interrupt or a crash the same command goes on from "
        "there, to the same table. It is removed when the table is written.",
    ),
]
Every = Annotated[
    Any,
    whole("--every", panel=RUNNING, help="Write the checkpoint after every N batches of samples, 64 by default."),
]

Ray = Annotated[
    str | None,
    option(
        "--ray",
        panel=CLUSTER,
        metavar="[ADDRESS]",
        help="Collect on a Ray cluster: HOST:PORT or ray://HOST:PORT of its head, auto for the one that this machine "
        "is part of; without an address, one of this machine alone. The table is the same.",
    ),
]
Workers = Annotated[
    Any, whole("--workers", panel=CLUSTER, help="Run the model in at most N workers; by default as many as fit.")
]
BlockSize = Annotated[
    Any,
    whole("--block-size", panel=CLUSTER, help="Batches that a worker computes between two results, 64 by default."),
]

OneMethod = Annotated[
    str | None,
    option("--method", "-m", panel=SHOWN, metavar="NAME", help="Show what this method chooses, and no other."),
]
Value = Annotated[
    str | None,
    option("--value", panel=SHOWN, metavar="NAME", help="Show this value alone, in detail, with its histogram."),
]
Sort = Annotated[
    Any,
    option(
        "--sort",
        panel=SHOWN,
        parser=parse.one_of("key to sort by", SORT_KEYS),
        metavar="KEY",
        help="name (the default), elements, range, zeros, nonfinite, scale, sqnr, move. What needs a look comes first: "
        "the lowest SQNR, of the others the largest.",
    ),
]
Reverse = Annotated[bool, flag("--reverse", panel=SHOWN, help="Sort the other way round.")]
Json = Annotated[bool, flag("--json", panel=SHOWN, help="Print JSON: everything, with every digit.")]
Csv = Annotated[bool, flag("--csv", panel=SHOWN, help="Print CSV: a row for each value and method.")]
GridBits = Annotated[Any, whole("--bits", panel=GRID, least=2, most=16, help="Bits: 2 to 16, 8 by default.")]
GridSymmetric = Annotated[
    bool, flag("--symmetric/--asymmetric", panel=GRID, help="int without, or uint with a zero point (the default).")
]
GridPercentile = Annotated[
    Any,
    option(
        "--percentile",
        panel=GRID,
        parser=parse.share,
        metavar="P",
        help="For the percentile method: the share of values inside the range, 0.9999 by default.",
    ),
]
ImportForMethod = Annotated[
    list[str] | None,
    option(
        "--import",
        panel=GRID,
        metavar="MODULE",
        help=IMPORT_HELP,
    ),
]
