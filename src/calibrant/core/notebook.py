"""What notebooks show: tables of text, in which nothing is read as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice

MOST = 200  # rows


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of these texts; after MOST rows it says how many more there are.

    >>> html_table("<b>", [], [["a", "1 < 2"]])
    '<table><caption>&lt;b&gt;</caption><tbody><tr><th>a</th><td>1 &lt; 2</td></tr></tbody></table>'
    """
    rest = iter(rows)
    shown = [_row(row) for row in islice(rest, MOST)]
    more = sum(1 for _ in rest)
    shown += [f"<tr><td>and {more} more</td></tr>"] if more else []
    titles = "".join(f"<th>{escape(text)}</th>" for text in head)
    top = f"<thead><tr>{titles}</tr></thead>" if head else ""
    return f"<table><caption>{escape(caption)}</caption>{top}<tbody>{''.join(shown)}</tbody></table>"


def _row(texts: Sequence[str]) -> str:
    first, *others = (escape(text) for text in texts)
    return f"<tr><th>{first}</th>{''.join(f'<td>{text}</td>' for text in others)}</tr>"
