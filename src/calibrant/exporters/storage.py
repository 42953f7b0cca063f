"""The integer type that a config is stored in, its scale and zero point as arrays, and a constant as its integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import StateError, TensorQuantizationConfig, quantize

_SIGNED = {8: ir.DataType.INT8, 16: ir.DataType.INT16, 32: ir.DataType.INT32}
_UNSIGNED = {8: ir.DataType.UINT8, 16: ir.DataType.UINT16}


def storage_type(config: TensorQuantizationConfig) -> ir.DataType:
    """The smallest of 8, 16 and 32 bits that holds the grid; narrower grids lie inside it."""
    bits = next(b for b in (8, 16, 32) if config.num_of_bits <= b)
    return (_SIGNED if config.is_signed else _UNSIGNED)[bits]


def type_bounds(config: TensorQuantizationConfig) -> tuple[int, int]:
    """Smallest and largest integer of the storage type: where QuantizeLinear saturates."""
    info = np.iinfo(storage_type(config).numpy())
    return int(info.min), int(info.max)


def fills_type(config: TensorQuantizationConfig) -> bool:
    """Whether the grid is the whole storage type, so that QuantizeLinear alone keeps values inside it."""
    return (config.quant_min, config.quant_max) == type_bounds(config)


def scale_and_zero_point(config: TensorQuantizationConfig) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """float32 scale and zero point of the storage type: () per tensor, (channels,) per channel."""
    if config.scale is None or config.offset is None:
        raise StateError(f"the config has no scale and offset yet (state {config.state.name}): calibrate first")
    return config.scale, config.offset.astype(storage_type(config).numpy())


def integers(values: NDArray[Any], config: TensorQuantizationConfig) -> NDArray[Any]:
    """The constant `values` as integers of the storage type.

    A bias (32 bits) is divided in float64: its integers may have more digits than a float32 quotient.
    """
    if not config.is_bias:
        return np.asarray(quantize(values, config).astype(storage_type(config).numpy()))
    scale = scale_and_zero_point(config)[0].reshape(config.parameter_shape(values.ndim))
    quotient = np.rint(values.astype(np.float64) / scale.astype(np.float64))
    return np.asarray(np.clip(quotient, config.quant_min, config.quant_max).astype(np.int32))
