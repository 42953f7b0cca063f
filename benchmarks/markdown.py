"""Tables in Markdown, as wide as their widest cells, so that they can be read as they are too."""

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose other columns are numbers, aligned to the right.

    >>> print(table(["model", "dB"], [["a", "17.1"]]))
    | model |   dB |
    |:------|-----:|
    | a     | 17.1 |
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [_line(headings, widths), _rule(widths), *(_line(row, widths) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return "| " + " | ".join(padded) + " |"


def _rule(widths: Sequence[int]) -> str:
    first, *others = widths
    return "|:" + "-" * (first + 1) + "|" + "|".join("-" * (width + 1) + ":" for width in others) + "|"
