"""Names in messages: of a mistyped one the nearest that is known, and what a class is called in prose."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to `name`, ignoring case; None when none is near.

    >>> closest("percentil", ["minmax", "percentile"])
    'percentile'
    """
    folded = {k.casefold(): k for k in known}
    found = get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not known, with the nearest one or else all of them.

    >>> unknown("method", "percentil", ["minmax", "percentile"])
    "unknown method 'percentil'; did you mean 'percentile'?"
    >>> unknown("method", "x", ["minmax", "mse"])
    "unknown method 'x'; known: minmax, mse"
    """
    known = sorted(known)
    near = closest(name, known)
    return f"unknown {what} '{name}'; " + (f"did you mean '{near}'?" if near else "known: " + ", ".join(known))


def in_prose(name: str) -> str:
    """The name of a pass as people say it.

    >>> in_prose("OutputRefinementPass"), in_prose("calibrate")
    ('output refinement', 'calibrate')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Pass")).lower()
