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
        """The platform of that name, whatever its case.

        >>> TargetPlatform.of("TRT_int8").name
        'TRT_INT8'

        Raises SettingError, with the nearest known name, for one that is not known.
        """
        if isinstance(name, cls):
            return name
        try:
            return cls[str(name).upper()]
        except KeyError:
            raise SettingError(unknown("platform", str(name), [p.name for p in cls])) from None
