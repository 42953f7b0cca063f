"""One optimization per file, run in the order of `pipeline`."""

from calibrant.passes.base import QuantizationPass
from calibrant.passes.bias_correction import BiasCorrectionPass
from calibrant.passes.exact_simulation import ExactSimulationPass
from calibrant.passes.isotone import IsotoneCalibrationPass
from calibrant.passes.output_refinement import OutputRefinementPass
from calibrant.passes.parameter import ParameterQuantizePass
from calibrant.passes.passive import PassiveParameterQuantizePass
from calibrant.passes.pipeline import pipeline
from calibrant.passes.runtime import RuntimeCalibrationPass

__all__ = [
    "BiasCorrectionPass",
    "ExactSimulationPass",
    "IsotoneCalibrationPass",
    "OutputRefinementPass",
    "ParameterQuantizePass",
    "PassiveParameterQuantizePass",
    "QuantizationPass",
    "RuntimeCalibrationPass",
    "pipeline",
]
