"""What describes a tensor to a GPU's tensor memory accelerator: CUDA's driver writes it, no kernel can."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from calibrant.sketches.cells import I64

_BYTES, _ALIGNED = 128, 64
_UINT16, _UINT32 = 1, 2  # CUtensorMapDataType
_PLAIN, _WHOLE_LINES, _ZEROS = 0, 2, 0  # no interleaving, no swizzle; 128 bytes brought to the cache at once; outside


def tensor_map(address: int, shape: tuple[int, int], box: tuple[int, int], element_bytes: int) -> I64:
    """A CUtensorMap as 16 words: of the tensor (rows, columns) of 2 or 4 bytes an element at an address, contiguous,
    of which boxes of so many rows and columns are read; zeros beyond its ends.

    Raises:
        OSError: There is no driver of CUDA.
        ValueError: It refuses: an address or a row that is no multiple of 16 bytes.
    """
    room = (ctypes.c_uint8 * (_BYTES + _ALIGNED))()
    place = -(-ctypes.addressof(room) // _ALIGNED) * _ALIGNED
    (rows, columns), (box_rows, box_columns) = shape, box
    error = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(place),
        ctypes.c_int(_UINT32 if element_bytes == 4 else _UINT16),
        ctypes.c_uint32(2),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * 2)(columns, rows),
        (ctypes.c_uint64 * 1)(columns * element_bytes),
        (ctypes.c_uint32 * 2)(box_columns, box_rows),
        (ctypes.c_uint32 * 2)(1, 1),
        ctypes.c_int(_PLAIN),
        ctypes.c_int(_PLAIN),
        ctypes.c_int(_WHOLE_LINES),
        ctypes.c_int(_ZEROS),
    )
    if error:
        raise ValueError(f"cuTensorMapEncodeTiled: error {error} for {shape} at {address:#x}, {box} at once")
    return np.frombuffer(ctypes.string_at(place, _BYTES), np.int64).copy()


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
