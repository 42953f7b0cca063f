"""numba's compiler as these kernels use it: at the first call, kept on disk, without the interpreter lock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

_HERE = Path(__file__).parent
SOURCES = (_HERE.parent / "cells.py", *sorted(_HERE.glob("*.py")))
STAMP = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()


def jit(function: F) -> F:
    """`function`, compiled. Without fast-math: the same sketch gives the same scale, whatever the processor.

    numba renews what it keeps on disk when the function's own file changes. These functions call those of other files,
    so the content of all of them counts (through a private attribute of numba, for want of a public one; there is a
    test for it).
    """
    compiled = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    compiled._cache._cache_file._source_stamp = STAMP
    return cast(F, compiled)
