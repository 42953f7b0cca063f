"""Quantize, dequantize, and from a range to scale and offset. Plain numpy: what every runtime has to agree with.

Quant(y) = clip(round(y / scale) + offset, quant_min, quant_max)      (ONNX QuantizeLinear; offset is its zero point)
Dequant(q) = (q - offset) * scale                                     (ONNX DequantizeLinear)
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrant.core.config import F32, TensorQuantizationConfig
from calibrant.core.errors import ConfigError, StateError
from calibrant.core.policy import RoundingPolicy
from calibrant.core.rounding import round_array

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # below it float32 loses digits, or flushes to 0

WIDEST_EXACT = 16  # bits; float32 holds every sum of such an integer and an offset exactly

LARGEST_EXPONENT = int(np.finfo(np.float32).maxexp) - 1  # 2**127 is the largest power of two of float32


def quantize(x: ArrayLike, config: TensorQuantizationConfig) -> NDArray[np.int32]:
    """The integers that `x` becomes. x: any shape; computed in float32 as runtimes do. Inf saturates.

    >>> from calibrant.core.policy import QuantizationProperty as P
    >>> c = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL, scale=0.5, offset=10)
    >>> quantize([-1.0, 0.0, 0.25, 1e9], c).tolist()
    [8, 10, 10, 127]

    Raises StateError for a config without scale and offset, ConfigError for NaN and for a channel axis that x lacks.
    """
    values = _numbers(x)
    scale, offset = _parameters(values, config)
    with np.errstate(over="ignore"):
        rounded = round_array(values / scale, config.rounding)
    return np.clip(rounded + offset, config.quant_min, config.quant_max).astype(np.int32)


def dequantize(q: ArrayLike, config: TensorQuantizationConfig) -> F32:
    """The float32 values that the integers `q` stand for. Raises as `quantize` does."""
    integers = np.asarray(q)
    scale, offset = _parameters(integers, config)
    return np.asarray((integers - offset).astype(np.float32) * scale)


def fake_quantize(x: ArrayLike, config: TensorQuantizationConfig) -> F32:
    """`x` through quantize and dequantize: the values an integer runtime computes with. Raises as `quantize` does."""
    if config.num_of_bits > WIDEST_EXACT or config.rounding is not RoundingPolicy.ROUND_HALF_EVEN:
        return dequantize(quantize(x, config), config)
    values = _numbers(x)
    scale, offset = _parameters(values, config)
    # The integers stay float32, which holds them exactly: the same values, in a third of the time.
    with np.errstate(over="ignore"):
        found = np.asarray(values / scale)
    np.rint(found, out=found)
    np.add(found, offset, out=found)
    np.clip(found, config.quant_min, config.quant_max, out=found)
    np.subtract(found, offset, out=found)
    return np.multiply(found, scale, out=found)


def affine(lo: ArrayLike, hi: ArrayLike, config: TensorQuantizationConfig) -> tuple[F32, F32]:
    """Scale and offset under which the grid of `config` covers [lo, hi], widened to contain 0.

    lo, hi: finite, lo <= hi; any equal shapes, the result has that shape.
    Symmetric: scale = 2 max(|lo|, |hi|) / (quant_max - quant_min), offset 0; on an unsigned grid
    scale = hi / quant_max, and negative values are refused. Asymmetric: scale = (hi - lo) / (quant_max - quant_min),
    offset = clip(round(quant_min - lo / scale)). POWER_OF_2 rounds the scale up to the next power of two first.
    A range of 0, or one too small for a normal float32 scale, gets scale 1, and the offset of real 0.

    >>> from calibrant.core.policy import QuantizationProperty as P
    >>> c = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL, quant_min=0, quant_max=255)
    >>> [float(v) for v in affine(-1.0, 4.1, c)]
    [0.019999999552965164, 50.0]
    """
    low = np.minimum(np.asarray(lo, np.float64), 0.0)
    high = np.maximum(np.asarray(hi, np.float64), 0.0)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise ConfigError(f"a range must be finite, got [{low}, {high}]")
    span = config.quant_max - config.quant_min
    if not config.is_symmetric:
        scale = _usable((high - low) / span, config)
        offset = np.clip(np.rint(config.quant_min - low / scale), config.quant_min, config.quant_max)
        return scale, offset.astype(np.float32)
    if config.is_signed:
        scale = _usable(2 * np.maximum(-low, high) / span, config)
    elif (low < 0).any():
        raise ConfigError(
            f"symmetric on the unsigned grid [{config.quant_min}, {config.quant_max}] cannot hold negative values, "
            f"got a range down to {low.min():g}: use a signed grid, or make the policy ASYMMETRICAL"
        )
    else:
        scale = _usable(high / config.quant_max, config)
    return scale, np.zeros_like(scale)


def _numbers(x: ArrayLike) -> F32:
    """As float32. Raises ConfigError for NaN."""
    values = np.asarray(x, np.float32)
    if np.isnan(values).any():
        raise ConfigError(f"cannot quantize NaN ({int(np.isnan(values).sum())} of {values.size} values)")
    return values


def _usable(scale: NDArray[np.float64], config: TensorQuantizationConfig) -> F32:
    if config.is_power_of_2:
        mantissa, exponent = np.frexp(scale)
        scale = np.ldexp(1.0, np.minimum(np.where(mantissa == 0.5, exponent - 1, exponent), LARGEST_EXPONENT))
    single = np.asarray(scale).astype(np.float32)
    return np.asarray(np.where(np.asarray(scale) < SMALLEST_SCALE, np.float32(1), single))


def _parameters(x: NDArray[np.generic], config: TensorQuantizationConfig) -> tuple[F32, F32]:
    """Scale and offset shaped to broadcast against x."""
    if config.scale is None or config.offset is None:
        raise StateError(f"the config has no scale and offset yet (state {config.state.name}): calibrate first")
    axis = config.channel_axis
    if axis is None:
        return config.scale, config.offset
    if not -x.ndim <= axis < x.ndim or x.shape[axis] != config.scale.size:
        raise ConfigError(f"channel_axis {axis} with {config.scale.size} channels does not fit shape {x.shape}")
    shape = config.parameter_shape(x.ndim)
    return config.scale.reshape(shape), config.offset.reshape(shape)
