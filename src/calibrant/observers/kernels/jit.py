"""numba's compiler as these kernels use it: at the first call, cached on disk, without the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """`function`, compiled. Without fast-math: the same sketch gives the same scale, whatever the processor."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))
