"""What a user decides about one quantization."""

from calibrant.settings.base import Setting
from calibrant.settings.calibration import QuantizeActivationSetting, QuantizeParameterSetting
from calibrant.settings.exceptions import OVERRIDE_KEYS, DispatchingTable, check_override
from calibrant.settings.passes import (
    BiasCorrectSetting,
    BlockwiseReconstructionSetting,
    EqualizationSetting,
    LSQSetting,
    OptimizationSetting,
    OutputRefinementSetting,
    SmoothQuantSetting,
)
from calibrant.settings.whole import EFFORTS, QuantizationSetting, QuantizationSettingFactory

__all__ = [
    "EFFORTS",
    "OVERRIDE_KEYS",
    "BiasCorrectSetting",
    "BlockwiseReconstructionSetting",
    "DispatchingTable",
    "EqualizationSetting",
    "LSQSetting",
    "OptimizationSetting",
    "OutputRefinementSetting",
    "QuantizationSetting",
    "QuantizationSettingFactory",
    "QuantizeActivationSetting",
    "QuantizeParameterSetting",
    "Setting",
    "SmoothQuantSetting",
    "check_override",
]
