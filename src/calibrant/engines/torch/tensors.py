"""Between ONNX element types, numpy arrays and torch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

T = ir.DataType

DTYPES: dict[ir.DataType, torch.dtype] = {
    T.FLOAT: torch.float32,
    T.FLOAT16: torch.float16,
    T.BFLOAT16: torch.bfloat16,
    T.DOUBLE: torch.float64,
    T.COMPLEX64: torch.complex64,
    T.COMPLEX128: torch.complex128,
    T.BOOL: torch.bool,
    T.INT8: torch.int8,
    T.INT16: torch.int16,
    T.INT32: torch.int32,
    T.INT64: torch.int64,
    T.UINT8: torch.uint8,
    T.UINT16: torch.uint16,
    T.UINT32: torch.uint32,
    T.UINT64: torch.uint64,
    T.FLOAT8E4M3FN: torch.float8_e4m3fn,
    T.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    T.FLOAT8E5M2: torch.float8_e5m2,
    T.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    # torch cannot compute with integers of fewer bits: each takes a byte
    T.INT4: torch.int8,
    T.INT2: torch.int8,
    T.UINT4: torch.uint8,
    T.UINT2: torch.uint8,
}
ELEMENT_TYPES = {dtype: kind for kind, dtype in reversed(DTYPES.items())}
NARROW = {T.INT4: (-8, 7), T.UINT4: (0, 15), T.INT2: (-2, 1), T.UINT2: (0, 3)}

_AS_BITS = {  # dtypes that numpy has only by extension, by the integers that hold their bits
    torch.bfloat16: (np.int16, torch.int16),
    torch.float8_e4m3fn: (np.uint8, torch.uint8),
    torch.float8_e4m3fnuz: (np.uint8, torch.uint8),
    torch.float8_e5m2: (np.uint8, torch.uint8),
    torch.float8_e5m2fnuz: (np.uint8, torch.uint8),
}


def to_tensor(array: Any, copy: bool = True) -> Any:
    """A CPU tensor of the array's values, in memory of its own; lists are lists of them.

    copy: False where it may be the array's memory, which then is only read.

    What torch has no type for (strings, 4-bit floats) stays a numpy array.
    """
    if isinstance(array, list):
        return [to_tensor(item) for item in array]
    if array is None or isinstance(array, torch.Tensor):
        return array
    array = np.asarray(array)
    kind = ir.DataType.STRING if array.dtype.kind in "OUS" else ir.DataType.from_numpy(array.dtype)
    dtype = DTYPES.get(kind)
    if dtype is None:
        return array
    if kind in NARROW:
        return torch.from_numpy(array.astype(np.int8 if kind in (T.INT4, T.INT2) else np.uint8))
    if dtype in _AS_BITS:
        return torch.from_numpy(array.view(_AS_BITS[dtype][0]).copy()).view(dtype)
    native = np.dtype(f"{array.dtype.kind}{array.dtype.itemsize}")  # of several names for one type, the one torch knows
    return torch.from_numpy(array.astype(native, order="C", copy=copy or not array.flags.writeable))


def to_array(tensor: Any, kind: ir.DataType | None = None) -> Any:
    """The tensor as a numpy array in memory of its own, of the element type `kind`; None: of the tensor's own type."""
    if isinstance(tensor, list):
        return [to_array(item, kind) for item in tensor]
    if not isinstance(tensor, torch.Tensor):
        return tensor
    tensor = tensor.detach().cpu().contiguous().resolve_conj()
    own = ELEMENT_TYPES[tensor.dtype]
    array: NDArray[Any]
    if tensor.dtype in _AS_BITS:
        array = tensor.view(_AS_BITS[tensor.dtype][1]).numpy().view(own.numpy())
    else:
        array = tensor.numpy()
    return array.astype(array.dtype if kind is None else kind.numpy())


def numbers(parameter: torch.Tensor | None) -> list[Any]:
    """The numbers of a host tensor, in order; none where it is left out."""
    found: list[Any] = [] if parameter is None else parameter.reshape(-1).tolist()
    return found


def number(parameter: torch.Tensor) -> Any:
    """The one number of a host tensor."""
    return parameter.reshape(()).item()


def widened(x: torch.Tensor) -> torch.Tensor:
    """Floats of 16 bits as float32, others as they are: float16 has no square of 256."""
    return x.to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x


def in_order(axes: list[int], rank: int) -> list[int]:
    """Axes counted from the front, each once, ascending."""
    return sorted({axis % rank for axis in axes}) if rank else []
