"""A table that fits: columns that matter less go before those that matter more, long names lose their beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rich.console
from rich.table import Table
from rich.text import Text

GAP = 2  # columns of the terminal between two of the table
NAME = 20  # columns that names keep at least, where they are as long


@dataclass(frozen=True)
class Column:
    """A column and its texts, one for each row. rank: 0 always stays; the columns of the highest rank go first.

    name: of names, which come first and may be cut.
    """

    heading: str
    texts: list[str]
    rank: int = 0
    name: bool = False

    @property
    def width(self) -> int:
        return max(len(text) for text in (*self.heading.splitlines(), *self.texts))


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns for which there is room.

    >>> wide = [Column("NAME", ["a long name, the end"], name=True), Column("A", ["1" * 9], 1), Column("B", ["2"], 2)]
    >>> [c.heading for c in fitted(wide, 40)], [c.heading for c in fitted(wide, 31)]
    (['NAME', 'A', 'B'], ['NAME', 'A'])
    """
    kept = list(columns)
    while _least(kept) > width and any(column.rank for column in kept):
        highest = max(column.rank for column in kept)
        kept = [column for column in kept if column.rank != highest]
    others = sum(column.width + GAP for column in kept if not column.name)
    return [cut(column, max(width - others, NAME)) if column.name else column for column in kept]


def _least(columns: Sequence[Column]) -> int:
    widths = (min(column.width, NAME) if column.name else column.width for column in columns)
    return sum(widths) + GAP * (len(columns) - 1)


def cut(column: Column, width: int) -> Column:
    """The column with no text longer than that: names of values differ at their ends, so their beginnings go."""
    texts = [text if len(text) <= width else "..." + text[3 - width :] for text in column.texts]
    return Column(column.heading, texts, column.rank, column.name)


def print_columns(
    console: rich.console.Console, columns: Sequence[Column], styles: Sequence[str] | None = None
) -> None:
    """Print them as a table. styles: one for each row."""
    kept = fitted(columns, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in kept:
        table.add_column(Text(column.heading), justify="left" if column.name else "right", no_wrap=True)
    for number, row in enumerate(zip(*(column.texts for column in kept), strict=True)):
        table.add_row(*map(Text, row), style=styles[number] if styles else None)
    console.print(table)
