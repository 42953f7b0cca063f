"""Numbers, short, for tables."""

from __future__ import annotations

import math

UNKNOWN = "-"


def short(x: float | None, digits: int = 3) -> str:
    """
    >>> short(0.0123456), short(-6.0), short(None), short(1234567.0)
    ('0.0123', '-6', '-', '1.23e+06')
    """
    return UNKNOWN if x is None else f"{x:.{digits}g}"


def large(n: int) -> str:
    """
    >>> large(999), large(51_380_224), large(12_800)
    ('999', '51.4M', '12.8k')
    """
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= unit:
            return f"{n / unit:.1f}{name}"
    return str(n)


def percent(share: float | None) -> str:
    """
    >>> percent(0.1234), percent(0.0), percent(0.00001), percent(None), percent(2.5)
    ('12.3 %', '0 %', '<0.1 %', '-', '250 %')
    """
    if share is None:
        return UNKNOWN
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.9995 else f"{100 * share:.1f} %"


def decibels(sqnr: float | None) -> str:
    """
    >>> decibels(38.24), decibels(math.inf), decibels(None)
    ('38.2', 'exact', '-')
    """
    if sqnr is None:
        return UNKNOWN
    return "exact" if sqnr == math.inf else f"{sqnr:.1f}"


def printable(name: str) -> str:
    """A name from a file, without what would move a terminal's cursor.

    >>> printable("a\\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(c if c.isprintable() else "?" for c in name)
