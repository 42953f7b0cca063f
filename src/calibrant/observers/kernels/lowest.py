"""The places of the lowest values: what the searches go on from."""

# mypy: disable-error-code="no-any-return"
# (to mypy an element of an array is Any)

from __future__ import annotations

import numpy as np

from calibrant.observers.kernels.pieces import F64, I64
from calibrant.sketches.kernels.jit import compiled


@compiled
def lowest(values: F64, most: int) -> I64:
    """Where the `most` lowest finite values are (fewer where there are fewer), lowest first, the first of equals first.

    By insertion: numba's own sorting takes seconds to compile.
    """
    found = np.empty(most, np.int64)
    count = 0
    for i in range(len(values)):
        if not values[i] < np.inf or (count == most and values[i] >= values[found[count - 1]]):
            continue
        count = min(count + 1, most)
        at = count - 1
        while at > 0 and values[found[at - 1]] > values[i]:
            found[at] = found[at - 1]
            at -= 1
        found[at] = i
    return found[:count]
