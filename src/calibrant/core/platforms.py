"""Where a quantized model runs."""

from __future__ import annotations

from enum import Enum

from calibrant.core.errors import SettingError
from calibrant.core.names import unknown


class TargetPlatform(Enum):
    """A runtime, or the request to keep something in float (`FP32`). PPQ's names; the value is the name in lower case.

    Only the platforms with a table in `calibrant.quantizers` can be quantized for; the others are refused by name.
    """

    ONNXRUNTIME = "onnxruntime"
    TRT_INT8 = "trt_int8"
    OPENVINO_INT8 = "openvino_int8"
    PPL_CUDA_INT8 = "ppl_cuda_int8"
    PPL_DSP_INT8 = "ppl_dsp_int8"
    QNN_DSP_INT8 = "qnn_dsp_int8"
    SNPE_INT8 = "snpe_int8"
    NCNN_INT8 = "ncnn_int8"
    NXP_INT8 = "nxp_int8"
    RKNN_INT8 = "rknn_int8"
    TENGINE_INT8 = "tengine_int8"
    FPGA_INT8 = "fpga_int8"
    FP32 = "fp32"

    @classmethod
    def of(cls, name: str | TargetPlatform) -> TargetPlatform:
        """The platform of that name, whatever its case, with or without `_INT8`, or by what it is called otherwise.

        >>> TargetPlatform.of("TRT_int8").name, TargetPlatform.of("openvino").name, TargetPlatform.of("ort").name
        ('TRT_INT8', 'OPENVINO_INT8', 'ONNXRUNTIME')

        Raises SettingError, with the nearest known name, for one that is not known.
        """
        if isinstance(name, cls):
            return name
        asked = str(name).upper().replace("-", "_")
        for candidate in (asked, f"{asked}_INT8", _ALIASES.get(asked, "")):
            if candidate in cls.__members__:
                return cls[candidate]
        raise SettingError(unknown("platform", str(name), [platform.name for platform in WITH_TABLE]))


_ALIASES = {"ORT": "ONNXRUNTIME", "TENSORRT": "TRT_INT8", "PPL": "PPL_CUDA_INT8", "PPL_CUDA": "PPL_CUDA_INT8"}
WITH_TABLE = (
    TargetPlatform.ONNXRUNTIME,
    TargetPlatform.TRT_INT8,
    TargetPlatform.OPENVINO_INT8,
    TargetPlatform.PPL_CUDA_INT8,
)
