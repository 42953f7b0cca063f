"""The words of quantization and its arithmetic. Imports nothing else of Calibrant."""

from calibrant.core.arithmetic import affine, dequantize, fake_quantize, quantize
from calibrant.core.config import TensorQuantizationConfig
from calibrant.core.errors import (
    CalibrantError,
    ClusterError,
    ConfigError,
    DataError,
    ExportError,
    IncompatibleSketches,
    ModelError,
    ObservationError,
    SettingError,
    StateError,
    TargetError,
)
from calibrant.core.names import closest, in_prose, unknown
from calibrant.core.platforms import TargetPlatform
from calibrant.core.policy import QuantizationPolicy, QuantizationProperty, QuantizationStates, RoundingPolicy

__all__ = [
    "CalibrantError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "ExportError",
    "IncompatibleSketches",
    "ModelError",
    "ObservationError",
    "QuantizationPolicy",
    "QuantizationProperty",
    "QuantizationStates",
    "RoundingPolicy",
    "SettingError",
    "StateError",
    "TargetError",
    "TargetPlatform",
    "TensorQuantizationConfig",
    "affine",
    "closest",
    "dequantize",
    "fake_quantize",
    "in_prose",
    "quantize",
    "unknown",
]
