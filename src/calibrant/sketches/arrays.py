"""From what is observed to floats in order: the one place that decides what is accepted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import DataError
from calibrant.sketches.cells import I32

Floats = NDArray[np.float32] | NDArray[np.float16]


def as_floats(x: Any) -> Floats:
    """`x` as a C-contiguous, aligned float32 or float16 array; without a copy where it is one already.

    x: a numpy array or scalar of floats, integers or bools; anything that becomes such an array; or a torch tensor on
    any device (known by its `detach`; torch is never imported). float64 and wide integers are rounded to float32,
    beyond its range to Inf. bfloat16 is widened exactly. Anything else raises DataError.
    """
    if type(x) is np.ndarray and x.dtype == np.float32 and x.flags.c_contiguous and x.flags.aligned:
        return x  # by far the most frequent, and np.require takes longer than to count a small value
    array = _host_array(x) if hasattr(x, "detach") else np.asarray(x)
    if array.dtype == np.float32 or array.dtype == np.float16:
        return np.require(array, None, ["C", "A"]).reshape(array.shape)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise DataError(f"cannot observe values of type {array.dtype}: expected floats or integers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, order="C")


def float_bits(values: Floats) -> I32:
    """The float32 bits of `values`, for kernels that only read them.

    Always writable: to numba a read-only array is another type, and a kernel is compiled anew, for seconds, for each
    type that it meets.
    """
    bits = np.asarray(values, np.float32).view(np.int32)
    return bits if bits.flags.writeable else np.asarray(_Unlocked(bits))


class _Unlocked:
    """The memory of a read-only array, offered to numpy as writable."""

    def __init__(self, bits: I32) -> None:
        address = bits.__array_interface__["data"][0]
        self.__array_interface__ = bits.__array_interface__ | {"data": (address, False)}
        self._owner = bits


def _host_array(tensor: Any) -> NDArray[Any]:
    """A torch tensor as numpy array; bfloat16, which numpy lacks, by way of float32."""
    tensor = tensor.detach()
    if "bfloat16" in str(tensor.dtype):
        tensor = tensor.float()
    return np.asarray(tensor.cpu().numpy())
