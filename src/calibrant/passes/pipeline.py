"""The passes of a quantization, in their order."""

from __future__ import annotations

from calibrant.passes.base import QuantizationPass
from calibrant.passes.bias_correction import BiasCorrectionPass
from calibrant.passes.exact_simulation import ExactSimulationPass
from calibrant.passes.lsq import LearnedStepSizePass
from calibrant.passes.optimization import OptimizationPass
from calibrant.passes.output_refinement import OutputRefinementPass
from calibrant.passes.parameter import ParameterQuantizePass
from calibrant.passes.passive import PassiveParameterQuantizePass
from calibrant.passes.reconstruction import BlockwiseReconstructionPass
from calibrant.passes.rounding import BalancedRoundingPass
from calibrant.passes.runtime import RuntimeCalibrationPass
from calibrant.settings import QuantizationSetting


def pipeline(setting: QuantizationSetting, calib_steps: int | None) -> list[QuantizationPass]:
    """What runs after the quantizer assigned its configs: calibration, then weights, then what depends on both.

    The quantizer wrote each config's own method, overrides included; isotone alone is for some values only.
    Ranges of activations are refined while weights are in float: what weights of few bits do to the outputs before they
    are reconstructed would hide what a range does. Reconstruction comes last of high effort: dropped where the outputs
    do not gain, it cannot spoil the others.
    """
    passes: list[QuantizationPass] = []
    if setting.quantize_activation:
        isotone = (setting.quantize_activation_setting.calib_algorithm or "").casefold() == "isotone"
        passes.append(RuntimeCalibrationPass("isotone" if isotone else None, calib_steps=calib_steps))
    if setting.quantize_activation and setting.wants("output_refinement"):
        refining = setting.output_refinement_setting
        passes.append(OutputRefinementPass(refining.interested_layers, refining.steps))
    if setting.quantize_parameter:
        baking = setting.quantize_parameter_setting.baking_parameter
        passes.append(ParameterQuantizePass(baking_parameter=baking))
        if setting.quantize_parameter_setting.balanced_rounding:
            passes.append(BalancedRoundingPass())
    if setting.wants("bias_correct"):
        correcting = setting.bias_correct_setting
        passes.append(BiasCorrectionPass(correcting.interested_layers, correcting.steps, correcting.block_size))
    if setting.wants("blockwise_reconstruction") and setting.quantize_parameter:
        passes.append(BlockwiseReconstructionPass(setting.blockwise_reconstruction_setting.interested_layers))
    if setting.wants("lsq_optimization"):
        passes.append(LearnedStepSizePass(**setting.lsq_optimization_setting.to_dict()))
    if setting.exact_simulation:
        passes.append(ExactSimulationPass())
    passes.append(PassiveParameterQuantizePass())
    return passes


def runs_again(setting: QuantizationSetting) -> bool:
    """Whether passes after calibration run the model, so that samples are needed beside a table as well."""
    return any(isinstance(step, OptimizationPass) for step in pipeline(setting, None))
