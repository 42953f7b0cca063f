"""How kernels are compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`function`, compiled at its first call (importing compiles nothing), kept on disk, and run without the GIL.

    Without fast-math: the same tensors and the same sketch give the same bytes, whatever the processor. numpy's error
    model leaves out the checks for division by zero. numba renews what it keeps on disk when the function's own file
    changes; a kernel calls those of other files of its room, so the content of all of them counts (through a private
    attribute of numba, for want of a public one; there are tests for it).
    """
    return _compiled(function)


def borrowing(function: F) -> F:
    """`compiled`, for a piece of a kernel that makes no arrays: it does not count who refers to those that it is given.

    Its callers hold them. Counting is atomic, and takes longer than many a look-up.
    """
    return _compiled(function, _nrt=False)


def _compiled(function: F, **options: bool) -> F:
    made = njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    made._cache._cache_file._source_stamp = stamp(Path(function.__code__.co_filename).parent)
    return cast(F, made)


def is_kept(kernel: Callable[..., Any]) -> bool:
    """Whether it was compiled before, from these sources, and is on disk; else its first call takes long."""
    return bool(kernel._cache._cache_file._load_index())  # type: ignore[attr-defined]


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A piece of a kernel in LLVM's own words: `function` gets the types of its arguments, after numba's context, and
    gives its signature and what builds it."""
    return cast(Callable[..., Any], intrinsic(function))


@cache
def stamp(folder: Path) -> str:
    """Of the content of all that the kernels of a folder may call, or take constants from."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources(folder))).hexdigest()


def sources(folder: Path) -> list[Path]:
    """The files of the room that the folder of kernels is in."""
    return sorted(folder.parent.rglob("*.py"))
