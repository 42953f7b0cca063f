"""Samples that do not vary: all of them the same, or an input that is one number. Mostly a mistake in reading them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from calibrant.engines.samples import Feed

log = logging.getLogger(__name__)


def watched(samples: Iterable[Feed]) -> Iterator[Feed]:
    """The samples as they are; at their end a warning in the log where they did not vary.

    A sample is looked at only while all before it were alike, so that it costs a look at the first two. Integer inputs
    may be one number, as a mask without padding is. What lies along the first axis counts as samples.
    """
    constant: dict[str, Any] = {}  # floating input -> its number, of those that had no other so far
    alike: Feed = {}  # the first sample, while there was no other
    several = False
    for number, feed in enumerate(samples):
        if not number:
            constant = {name: array.flat[0] for name, array in feed.items() if array.dtype.kind == "f" and array.size}
            alike = {name: array[:1].copy() if array.ndim else array.copy() for name, array in feed.items()}
        constant = {name: value for name, value in constant.items() if (feed[name] == value).all()}
        alike = alike if all(_repeats(feed[name], row) for name, row in alike.items()) else {}
        several = several or number > 0 or any(array.ndim and array.shape[0] > 1 for array in feed.values())
        yield feed
    for name, value in constant.items():
        log.warning("input '%s' is %g in all samples, everywhere: check how they are read or made", name, value)
    if several and alike.keys() - constant.keys():
        log.warning("all samples are alike, and count like one: check how they are read or made")


def _repeats(array: NDArray[Any], row: NDArray[Any]) -> bool:
    """Whether every row of the array is this one."""
    if not (array.size and row.size):
        return array.size == row.size
    return array.shape[1:] == row.shape[1:] and bool((array == row).all())
