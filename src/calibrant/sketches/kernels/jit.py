"""How kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`function`, compiled at its first call (importing compiles nothing), kept on disk, and run without the GIL.

    numpy's error model leaves out the checks for division by zero. What is kept on disk is renewed when the kernel's
    own file changes, not when another one does: so a kernel calls only kernels of its own file.
    """
    return cast(F, njit(nogil=True, cache=True, error_model="numpy")(function))
