"""Calibrant: a float ONNX model and a few hundred samples in, a calibrated integer model out.

The names below are loaded when they are first used, so that `import calibrant` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from calibrant.api import (
        calibrate,
        export_graph,
        export_ppq_graph,
        quantize_onnx_model,
        quantize_torch_model,
    )
    from calibrant.core import (
        CalibrantError,
        QuantizationPolicy,
        QuantizationProperty,
        QuantizationStates,
        RoundingPolicy,
        TargetPlatform,
        TensorQuantizationConfig,
    )
    from calibrant.distributed import RayCluster
    from calibrant.engines import OnnxruntimeExecutor, TorchExecutor
    from calibrant.graph import load_onnx_graph
    from calibrant.observers import BaseTensorObserver, build_observer, register_calibration_observer
    from calibrant.passes import (
        ExactSimulationPass,
        IsotoneCalibrationPass,
        ParameterQuantizePass,
        PassiveParameterQuantizePass,
        RuntimeCalibrationPass,
    )
    from calibrant.settings import QuantizationSetting, QuantizationSettingFactory
    from calibrant.table import CalibrationTable

_ROOMS = {
    "calibrant.api": "calibrate export_graph export_ppq_graph quantize_onnx_model quantize_torch_model",
    "calibrant.core": (
        "CalibrantError QuantizationPolicy QuantizationProperty QuantizationStates RoundingPolicy TargetPlatform "
        "TensorQuantizationConfig"
    ),
    "calibrant.distributed": "RayCluster",
    "calibrant.engines": "OnnxruntimeExecutor TorchExecutor",
    "calibrant.graph": "load_onnx_graph",
    "calibrant.observers": "BaseTensorObserver build_observer register_calibration_observer",
    "calibrant.passes": (
        "ExactSimulationPass IsotoneCalibrationPass ParameterQuantizePass PassiveParameterQuantizePass "
        "RuntimeCalibrationPass"
    ),
    "calibrant.settings": "QuantizationSetting QuantizationSettingFactory",
    "calibrant.table": "CalibrationTable",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = [  # noqa: RUF022 - the order of the documentation
    "TargetPlatform", "QuantizationSetting", "QuantizationSettingFactory",
    "QuantizationProperty", "QuantizationPolicy", "QuantizationStates", "RoundingPolicy", "TensorQuantizationConfig",
    "RuntimeCalibrationPass", "IsotoneCalibrationPass", "ParameterQuantizePass", "ExactSimulationPass",
    "PassiveParameterQuantizePass",
    "BaseTensorObserver", "build_observer", "register_calibration_observer",
    "load_onnx_graph", "OnnxruntimeExecutor", "TorchExecutor",
    "quantize_onnx_model", "quantize_torch_model", "export_graph", "export_ppq_graph", "calibrate", "CalibrationTable",
    "RayCluster",
    "CalibrantError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'calibrant' has no attribute '{name}'")
    return getattr(import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
