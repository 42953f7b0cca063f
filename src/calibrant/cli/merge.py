"""`calibrant merge`: several tables of one model into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.cli import options as o
from calibrant.cli import table_options as t
from calibrant.cli.console import Console
from calibrant.cli.exits import one_line_errors
from calibrant.cli.gathered import console_of
from calibrant.core import IncompatibleSketches, SettingError

if TYPE_CHECKING:
    from calibrant.cli.tables import TableFile
    from calibrant.table import CalibrationTable

MERGE_HELP = """Merge calibration tables of one model: the table of all their samples.

Collect on several machines, each on its own share of the samples, then merge. The order does not matter.

  calibrant merge first.table second.table -o all.table
"""


def merge(
    tables: t.Tables,
    output: t.TableOutput = None,
    force: o.Force = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The command's body; typer makes the options of its signature."""
    console = console_of(verbose, quiet, debug)
    with console.logging(), one_line_errors(console):
        merge_files(console, tables, output, force)


def merge_files(console: Console, paths: Sequence[Path], output: Path | None, force: bool) -> None:
    """Merge and write, and say so. What can be refused is refused before the work starts."""
    from calibrant.cli.output import check_output
    from calibrant.cli.words import megabytes
    from calibrant.data.paths import count
    from calibrant.passes.runtime import warn_of_few

    if output is None:
        raise SettingError("--output is missing: say where the merged table goes")
    check_output(output, force, example="all.table")
    refuse_twice(paths)
    merged = merged_files(paths)
    merged.save(output)
    warn_of_few(merged.samples)
    if console.quiet:
        return
    numbers = f"{count(len(merged), 'value')}, {count(merged.samples, 'sample')}"
    size = megabytes(output.stat().st_size)
    console.out.print(f"{output}: {count(len(paths), 'table')} merged: {numbers}, {size}", soft_wrap=True)
    for text in [] if console.live else console.warnings:
        console.say(f"warning: {text}", "yellow")


def refuse_twice(paths: Sequence[Path]) -> None:
    """Raise SettingError for a file that is named twice, whatever the names."""
    seen: dict[Path, Path] = {}
    for path in paths:
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            same = f"'{path}'" if first == path else f"'{first}' and '{path}' are one file, which"
            raise SettingError(f"{same} is given twice: its samples would count twice")


def merged_files(paths: Sequence[Path]) -> CalibrationTable:
    """The tables merged as a tree; of n tables at most log2(n) + 2 are in memory at a time.

    Raises DataError naming the file that is no table, IncompatibleSketches naming the one that does not go with the
    first, and what differs.
    """
    from calibrant.cli.tables import TableFile

    like: TableFile | None = None
    trees: list[tuple[int, CalibrationTable]] = []  # with how many tables each is of: powers of two, falling
    for path in paths:
        found = TableFile.open(path)
        like = like or TableFile(path, emptied(found.table))
        refuse_others(like, found)
        table, size = found.table, 1
        while trees and trees[-1][0] == size:
            table, size = trees.pop()[1].merge(table), 2 * size
        trees.append((size, table))
    whole = trees.pop()[1]
    while trees:
        whole = trees.pop()[1].merge(whole)
    return whole


def emptied(table: CalibrationTable) -> CalibrationTable:
    """The table over none of its samples."""
    specs = {name: sketch.spec for name, sketch in table.sketches.even.items()}
    return table.empty(specs, table.fingerprint, table.engine, table.settings)


def refuse_others(like: TableFile, found: TableFile) -> None:
    """Raise IncompatibleSketches, naming both files, for a table that does not merge with those before it."""
    differing = like.table.differences(found.table)
    if differing:
        what = f"they are of different {'; '.join(differing)}"
    else:
        try:
            like.table.merge(emptied(found.table))
            return
        except IncompatibleSketches as error:
            what = str(error)
    raise IncompatibleSketches(f"'{found.path}' cannot be merged with '{like.path}': {what}")
