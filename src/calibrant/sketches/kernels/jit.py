"""How kernels are compiled."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.extending import intrinsic

log = logging.getLogger(__name__)

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


def _compiled(function: F, **options: Any) -> F:
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        made = njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        _warn_of_no_cache()
        return cast(F, njit(**options)(function))
    made._cache._cache_file._source_stamp = stamp(Path(function.__code__.co_filename).parent)
    return cast(F, made)


@cache
def _warn_of_no_cache() -> None:
    log.warning(
        "compiled kernels cannot be kept, for want of a folder to write to: every run takes a minute longer; "
        "set NUMBA_CACHE_DIR to one"
    )


def is_kept(kernel: Callable[..., Any]) -> bool:
    """Whether it was compiled before, from these sources, and is on disk; else its first call takes long."""
    file = getattr(kernel._cache, "_cache_file", None)  # type: ignore[attr-defined]
    return file is not None and bool(file._load_index())


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A piece of a kernel in LLVM's own words: `function` gets the types of its arguments, after numba's context, and
    gives its signature and what builds it."""
    return cast(Callable[..., Any], intrinsic(function))


@cache
def stamp(folder: Path) -> str:
    """Of the content of all that the kernels of a folder may call, or take constants from."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources(folder))).hexdigest()


def sources(folder: Path) -> list[Path]:
    """The files of the room that the folder of kernels is in; elsewhere those of the folder."""
    return sorted((folder.parent if folder.name == "kernels" else folder).rglob("*.py"))
