"""Outputs that are probabilities, as what their Softmax was given: there a small error stays a small one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Outputs = Sequence[NDArray[Any]]  # of a model, for one sample


def logs_of(reference: Outputs, found: Outputs) -> tuple[Outputs, Outputs]:
    """Both, with logarithms less their mean where outputs of the reference are probabilities along the last axis.

    Probabilities: not negative, and 1 together. Their logarithms end at that of the least normal float32.
    """
    each = [
        (logarithms(exact), logarithms(other)) if are_probabilities(exact) else (exact, other)
        for exact, other in zip(reference, found, strict=True)
    ]
    return [exact for exact, _ in each], [other for _, other in each]


def are_probabilities(x: NDArray[Any]) -> bool:
    """Whether these are probabilities of several cases each, along the last axis."""
    several = x.dtype.kind == "f" and x.ndim > 0 and x.shape[-1] > 1
    return several and bool((x >= 0).all()) and bool((abs(x.sum(axis=-1, dtype=np.float64) - 1) < 1e-3).all())


def logarithms(x: NDArray[Any]) -> F64:
    """Of probabilities, less their mean along the last axis."""
    logs = np.log(np.maximum(x, np.finfo(np.float32).tiny, dtype=np.float64))
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))
