"""One optimization per file, run in the order of `pipeline`."""

from calibrant.passes.base import QuantizationPass
from calibrant.passes.isotone import IsotoneCalibrationPass
from calibrant.passes.parameter import ParameterQuantizePass
from calibrant.passes.passive import PassiveParameterQuantizePass
from calibrant.passes.pipeline import pipeline
from calibrant.passes.runtime import RuntimeCalibrationPass

__all__ = [
    "IsotoneCalibrationPass",
    "ParameterQuantizePass",
    "PassiveParameterQuantizePass",
    "QuantizationPass",
    "RuntimeCalibrationPass",
    "pipeline",
]
